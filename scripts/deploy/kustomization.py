"""Prints each file that a kustomization reads, by way of its bases and components too."""

import os
import sys

import yaml


def files_of(folder):
    yield f"{folder}/kustomization.yaml"
    with open(f"{folder}/kustomization.yaml") as file:
        kustomization = yaml.safe_load(file)
    for name in kustomization.get("resources", []) + kustomization.get("components", []):
        path = os.path.normpath(f"{folder}/{name}")
        if os.path.isdir(path):
            yield from files_of(path)
        else:
            yield path
    for patch in kustomization.get("patches", []):
        if "path" in patch:
            yield f"{folder}/{patch['path']}"
    for generator in kustomization.get("configMapGenerator", []) + kustomization.get("secretGenerator", []):
        for entry in generator["files"]:
            yield os.path.normpath(f"{folder}/{entry.rpartition('=')[2]}")


if __name__ == "__main__":
    print("\n".join(files_of(sys.argv[1])))
