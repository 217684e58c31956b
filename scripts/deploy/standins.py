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
def pair(*names):
    """A certificate and its key, which sign themselves: one pair serves as every certificate, key and authority."""
    names = names or ("standin", "scim.example.com")
    with tempfile.TemporaryDirectory() as folder:
        files = {"crt": f"{folder}/crt", "key": f"{folder}/key"}
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "90",
                        "-subj", f"/CN={names[0]}", "-addext", f"subjectAltName={','.join(f'DNS:{name}' for name in names)}",
                        # Some clients do not take an authority's certificate from a server.
                        "-addext", "basicConstraints=critical,CA:FALSE", "-out", files["crt"], "-keyout", files["key"]],
                       check=True, capture_output=True)
        return {kind: open(path).read() for kind, path in files.items()}
