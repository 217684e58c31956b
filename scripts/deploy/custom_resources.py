"""Checks the custom resources among rendered manifests against models made from their definitions, and prints how many there were."""

import sys
from importlib import import_module

import yaml
from faults import end, expect
from pydantic import ValidationError

# They take seconds to load, so only where one is needed. What no package has a model for is in models.py.
MODELS = {
    "cert-manager.io/v1": "cloudcoil.models.cert_manager.v1",
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
    "networking.istio.io/v1alpha3": "cloudcoil.models.istio.networking.v1alpha3",
    "security.istio.io/v1": "cloudcoil.models.istio.security.v1",
    "gateway.envoyproxy.io/v1alpha1": "models",
    "gateway.networking.k8s.io/v1": "models",
    "gateway.networking.k8s.io/v1beta1": "models",
    "traefik.io/v1alpha1": "models",
}


def unknown_keys(given, understood, path):
    """The models pass over keys that they do not know; those are missing in what they give back."""
    if isinstance(given, dict):
        for key, value in given.items():
            if key not in understood:
                yield f"{path}.{key}"
            else:
                yield from unknown_keys(value, understood[key], f"{path}.{key}")
    if isinstance(given, list):
        for index, value in enumerate(given):
            yield from unknown_keys(value, understood[index], f"{path}[{index}]")


count = 0
with open(sys.argv[1]) as file:
    for manifest in filter(None, yaml.safe_load_all(file)):
        if manifest["apiVersion"] not in MODELS:
            continue
        count += 1
        models = import_module(MODELS[manifest["apiVersion"]])
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        try:
            understood = getattr(models, manifest["kind"]).model_validate(manifest)
        except ValidationError as error:
            expect(False, f"{name}: {error}")
            continue
        for path in unknown_keys(manifest, understood.model_dump(mode="json", by_alias=True, exclude_unset=True), name):
            expect(False, f"{path}: no such key")
print(count)
end()
