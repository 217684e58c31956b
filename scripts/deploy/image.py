"""Fails for an image that is not what its users are promised.

Arguments: what `buildah inspect` has printed, the image as an OCI layout, the folder that its files are from, its size at most.
"""

import json
import pathlib
import sys
import tarfile

from faults import end, expect

inspected, layout, built, bytes_max = sys.argv[1:]
image = json.loads(pathlib.Path(inspected).read_text())["OCIv1"]
config = image["config"]
expect(config["User"] == "65532:65532", f"runs as {config['User']}")
expect(config["Entrypoint"] == ["/scim-guard"], f"starts {config['Entrypoint']}")
expect(config["Cmd"] == ["serve", "--config", "/etc/scim-guard/proxy.yaml"], f"is told {config['Cmd']}")
expect(set(config["ExposedPorts"]) == {"8080", "8081", "9090"} or set(config["ExposedPorts"]) == {"8080/tcp", "8081/tcp", "9090/tcp"},
       f"ports {config['ExposedPorts']}")
expect(config["StopSignal"] == "SIGTERM", f"is stopped by {config['StopSignal']}")
for name in ("title", "description", "licenses"):
    expect(config["Labels"].get(f"org.opencontainers.image.{name}"), f"no label {name}")
expect(image["created"].startswith("1970-01-01T00:00:00"), f"made {image['created']}, so every time it is another image")

# A secret or a shell would be among the files.
files, size = {}, 0
blobs = pathlib.Path(layout) / "blobs/sha256"
manifest = json.loads((blobs / json.loads((blobs.parents[1] / "index.json").read_text())["manifests"][0]["digest"].split(":")[1]).read_text())
for layer in manifest["layers"]:
    with tarfile.open(blobs / layer["digest"].split(":")[1]) as archive:
        for entry in archive:
            expect((entry.uid, entry.gid, entry.mtime) == (0, 0, 0), f"{entry.name}: of {entry.uid}:{entry.gid}, at {entry.mtime}")
            expect(entry.isdir() or entry.isreg(), f"{entry.name}: neither file nor directory")
            if entry.isreg():
                files[entry.name] = (entry.mode & 0o777, archive.extractfile(entry).read())
                size += entry.size
expected = {
    "scim-guard": (0o755, "scim-guard"),
    "usr/share/sbom/scim-guard.cdx.json": (0o644, "scim-guard.cdx.json"),
    "etc/ssl/certs/ca-certificates.crt": (0o644, "ca-certificates.crt"),
}
expect(set(files) == set(expected), f"has {sorted(files)}")
for name, (mode, source) in expected.items():
    found = files.get(name, (0, b""))
    expect(found[0] == mode, f"{name}: mode {found[0]:o}")
    expect(found[1] == (pathlib.Path(built) / source).read_bytes(), f"{name}: is not {built}/{source}")
expect(size <= int(bytes_max), f"{size} bytes, more than {bytes_max}")
compressed = sum(layer["size"] for layer in manifest["layers"])
print(f"image: {size / 1e6:.1f} MB, {compressed / 1e6:.1f} MB as it is sent")
end()
