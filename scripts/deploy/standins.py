"""What others put in place when it is deployed: certificates and tokens, made up so that a configuration can be checked."""

import functools
import secrets
import subprocess
import tempfile


def standin(name):
    """The text of a file that is a secret, by the ending of its name."""
    if name.endswith((".crt", ".key")):
        return pair()[name.rpartition(".")[2]]
    return secrets.token_hex(32)


@functools.cache
def pair():
    """A certificate and its key, which sign themselves: one pair serves as every certificate, key and authority."""
    with tempfile.TemporaryDirectory() as folder:
        files = {"crt": f"{folder}/crt", "key": f"{folder}/key"}
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "30",
                        "-subj", "/CN=standin", "-addext", "subjectAltName=DNS:standin,DNS:scim.example.com", "-out", files["crt"], "-keyout", files["key"]],
                       check=True, capture_output=True)
        return {kind: open(path).read() for kind, path in files.items()}
