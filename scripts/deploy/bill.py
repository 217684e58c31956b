"""Fails for a bill of materials that is not valid CycloneDX, or not that of the binary beside it. Argument: their folder."""

import hashlib
import json
import pathlib
import re
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from faults import end, expect

folder = pathlib.Path(sys.argv[1])
binary = (folder / "scim-guard").read_bytes()
text = (folder / "scim-guard.cdx.json").read_text()
invalid = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
expect(invalid is None, f"not CycloneDX 1.6: {invalid and invalid.data}")
bill = json.loads(text)
hashes = [entry["content"] for entry in bill["metadata"]["component"]["hashes"]]
expect(hashes == [hashlib.sha256(binary).hexdigest()], "the bill is that of another binary")
listed = {(component["name"], component["version"]) for component in bill["components"]}
# Messages of panics name the files of the crates that they are in.
paths = re.findall(rb"/registry/src/[^/]+/([a-zA-Z0-9_-]+?)-([0-9]+\.[0-9]+\.[0-9]+[^/]*)/", binary)
linked = {(name.decode(), version.decode()) for name, version in paths}
expect(len(linked) > 20, f"the binary names only {len(linked)} crates")
expect(linked <= listed, f"the bill lacks {linked - listed}")
libraries = {component["name"] for component in bill["components"] if component["purl"].startswith("pkg:deb/")}
expect("libc6-dev" in libraries, f"the bill lacks the C library: {libraries}")
end()
