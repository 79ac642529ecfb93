"""Renders every folder, validates it, and holds it to its properties. Called by `run`."""

import argparse
import os
import pathlib
import sys

import kubernetes_validate
import yaml

import asked
import edges
import edges_sabotage
import properties
import sabotage
import sources
from rendered import Rendered

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
K8S = HERE.parent
# What a folder is rendered for, and so what is asked of it.
ANCHORS = [*properties.EVERYWHERE, *properties.OWN, *properties.ANCHORS]
BESIDE = [*properties.EVERYWHERE, *properties.OWN]
EDGES = [*properties.EVERYWHERE, *edges.EDGES]
FOLDERS = {
    "base": ANCHORS,
    "examples/acme-air": ANCHORS,
    "examples/backup": BESIDE,
    "examples/shop": EDGES,
    "test/apps/awkward": EDGES,
}
ANCHORS_EXAMPLE = "examples/acme-air"
VERSIONS = ["1.33", "1.37"]


class Tally:
    """Counts what was checked and shows what failed."""

    def __init__(self):
        self.passed, self.failed = 0, 0

    def take(self, what, faults):
        """`faults` may be a generator: a property that cannot be asked has failed too."""
        try:
            found = list(faults)
        except (LookupError, TypeError, ValueError, AttributeError) as fault:
            found = [f"cannot be asked: {fault!r}"]
        if found:
            self.failed += 1
            print(f"FAILED  {what}")
            for fault in found:
                print(f"        {fault}")
        else:
            self.passed += 1


def schema_faults(obj, version):
    try:
        used = kubernetes_validate.validate(obj, version, strict=True)
    except kubernetes_validate.ValidationError as fault:
        yield f"{'.'.join(map(str, fault.path))}: {fault.message}"
    except kubernetes_validate.SchemaNotFoundError as fault:
        yield fault.message
    else:
        # It falls back on an older version's schemas without a word.
        if used != version:
            yield f"was validated for {used}"


def notices(check, rendered):
    """Whether the property says what is wrong. Stumbling over it would be luck, so that does not count."""
    try:
        return bool(list(check(rendered)))
    except (LookupError, TypeError, ValueError, AttributeError):
        return False


def rendered_folders(kubectl):
    """Every folder, rendered; those with edges know the anchors' example and their own files."""
    made = {name: Rendered.of(kubectl, K8S / name, name) for name in FOLDERS}
    for name, kind in FOLDERS.items():
        if kind is EDGES:
            made[name].cluster = made[ANCHORS_EXAMPLE]
            files = yaml.safe_load((K8S / name / "kustomization.yaml").read_text())["resources"]
            made[name].source = [o for f in files for o in yaml.safe_load_all((K8S / name / f).read_text()) if o]
    return made


def folders_unknown():
    """Kustomizations that are not rendered, and components that none of those rendered includes."""
    known, included = set(), set()
    for file in K8S.rglob("kustomization.yaml"):
        what = yaml.safe_load(file.read_text())
        if what["kind"] == "Component":
            known.add(file.parent.resolve())
            continue
        name = str(file.parent.relative_to(K8S))
        if name not in FOLDERS:
            yield f"{name} is not rendered"
        included |= {(file.parent / path).resolve() for path in what.get("components", [])}
    for folder in sorted(known - included):
        yield f"{folder.relative_to(K8S)} is included nowhere"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--kubectl", required=True)
    kubectl = arguments.parse_args().kubectl
    tally = Tally()

    rendered = rendered_folders(kubectl)
    tally.take("every folder is rendered", folders_unknown())

    for name, made in rendered.items():
        for obj in made.objects:
            for version in VERSIONS:
                what = f"{name}: {obj['kind']}/{obj['metadata']['name']} is valid for Kubernetes {version}"
                tally.take(what, schema_faults(obj, version))
        for check in FOLDERS[name]:
            tally.take(f"{name}: {check.__doc__}", check(made))
        if FOLDERS[name] is ANCHORS:
            ours = [(made.container, made.environment())]
        else:
            ours = [(edge.container, edge.environment()) for edge in made.edges()]
        for container, environment in ours:
            tally.take(f"{name}: {sources.settings_exist.__doc__}", sources.settings_exist(environment, ROOT))
            tally.take(f"{name}: {sources.image_is_of_this_version.__doc__}", sources.image_is_of_this_version(container, ROOT))

    dockerfile = (ROOT / "Dockerfile").read_text()
    tally.take(sources.the_image_holds_the_binary_only.__doc__, sources.the_image_holds_the_binary_only(dockerfile))

    # The checks themselves, on manifests with one thing wrong.
    with_anchors, with_edges = rendered[ANCHORS_EXAMPLE], rendered["test/apps/awkward"]
    broken = [(with_anchors, *one) for one in sabotage.SABOTAGE] + [(with_edges, *one) for one in edges_sabotage.SABOTAGE]
    for number, (good, check, how) in enumerate(broken, start=1):
        caught = notices(check, sabotage.broken(good, how))
        tally.take(f"sabotage {number} is caught by {check.__name__}", [] if caught else ["it was not noticed"])
    checked = {check for _, check, _ in broken}
    every = {*ANCHORS, *EDGES}
    tally.take("every property was seen to fail", sorted(c.__name__ for c in every - checked))
    misspelt = [(with_anchors, kind, lambda r, kind=kind, how=how: how(r.all(kind)[0])) for kind, how in sabotage.MISSPELT]
    misspelt += [(with_edges, "Deployment", how) for how in edges_sabotage.MISSPELT]
    for number, (good, kind, how) in enumerate(misspelt, start=1):
        wrong = sabotage.broken(good, how)
        for version in VERSIONS:
            caught = any(list(schema_faults(obj, version)) for obj in wrong.all(kind))
            tally.take(f"misspelling {number} is caught for {version}", [] if caught else ["it was not noticed"])
    for wrong in ("USER 0", "COPY . /", "FROM debian"):
        caught = bool(list(sources.the_image_holds_the_binary_only(f"{dockerfile}\n{wrong}\n")))
        tally.take(f"an image with {wrong} is caught", [] if caught else ["it was not noticed"])

    binary = os.environ.get("OPTGATE_BIN")
    if binary:
        for name, made in rendered.items():
            if FOLDERS[name] is ANCHORS:
                tally.take(f"{name}: {asked.of_anchors.__doc__}", asked.of_anchors(binary, made))
            elif FOLDERS[name] is EDGES:
                for ask in (asked.of_edges, asked.of_edges_beside_anchors):
                    tally.take(f"{name}: {ask.__doc__}", ask(binary, made))
        stand_in = K8S / "components/edge/optgate.yaml"
        tally.take(asked.of_the_stand_in.__doc__, asked.of_the_stand_in(binary, stand_in))

    print()
    if not binary:
        print("!!! NOT CHECKED: whether optgate accepts these policies and variables. Set OPTGATE_BIN to a built optgate.")
    print("not checked here, for want of a cluster: admission, scheduling, volumes, and that the network is closed")
    print(f"k8s: {tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
