"""Lints a chart strictly and renders it with its defaults and with each file of ci/.

Arguments: the chart, and a directory for the rendered manifests. Prints the files that were of use: a template that no
values bring to life is not among them.
"""

import os
import sys

import yaml
from faults import end, expect
from helm_python import Chart, HelmError, lint

INFORMATION = 1


def is_refused(values):
    try:
        chart.render(values, name="scim-guard", namespace="scim")
    except HelmError:
        return True
    return False


folder, directory = sys.argv[1:]
chart = Chart.load(folder)
used = {"Chart.yaml", "values.yaml", "values.schema.json", ".helmignore"}
samples = {"defaults": {}}
for name in sorted(os.listdir(f"{folder}/ci")):
    with open(f"{folder}/ci/{name}") as file:
        samples[name.removesuffix("-values.yaml")] = yaml.safe_load(file)
    used.add(f"ci/{name}")
for name, values in samples.items():
    report = lint(folder, values, strict=True, namespace="scim")
    for message in report["messages"]:
        expect(message["severity"] <= INFORMATION, f"{folder} with {name}: {message['path']}: {message['error']}")
    expect(not report["errors"], f"{folder} with {name}: {report['errors']}")
    rendered = chart.render(values, name="scim-guard", namespace="scim")
    with open(f"{directory}/{name}.yaml", "w") as file:
        for template, text in sorted(rendered.items()):
            if text.strip():
                used.add(template.removeprefix(f"{chart.name}/"))
                file.write("" if template.endswith(".txt") else f"---\n{text.strip()}\n")
    # The schema must refuse what nobody has written a template for, at every level that a sample sets.
    for section in [values, *(value for value in values.values() if isinstance(value, dict))]:
        section["misspelt"] = True
        expect(is_refused(values), f"{folder} with {name}: values.schema.json lets an unknown key pass")
        del section["misspelt"]
# An edge that nobody named, and a proxy that does not know where to forward.
for values in ({"decision": {"only": True}}, {"proxy": {"routes": [{"tenant": "z-demo00000000", "path": "/scim/v2"}]}}):
    expect(is_refused(values), f"{folder}: values.schema.json lets {values} pass")
# Definitions are rendered where they are included.
used |= {f"templates/{name}" for name in os.listdir(f"{folder}/templates") if name.startswith("_")}
print("\n".join(sorted(f"{folder}/{name}" for name in used)))
end()
