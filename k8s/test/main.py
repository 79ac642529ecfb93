"""Renders every folder, validates it, and holds it to its properties. Called by `run`."""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import kubernetes_validate

import properties
import sabotage
import sources
from rendered import Rendered

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FOLDERS = {"base": True, "examples/acme-air": True, "examples/backup": False}
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


def asked_of_optgate(binary, rendered):
    """The mounted policy passes `policy lint`, and a start with the Pod's own variables gets as far as the key."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "optgate.yaml"
        file.write_text(rendered.policy())
        clean = {"PATH": os.environ.get("PATH", "")}
        linted = subprocess.run(
            [binary, "policy", "lint", str(file)], capture_output=True, text=True, env=clean, timeout=30, check=False
        )
        if linted.returncode != 0 or "no faults, no warnings" not in linted.stdout:
            yield f"lint: {linted.stdout.strip()} {linted.stderr.strip()}"
        # No key is there, so a configuration that is accepted ends with the exit code for a missing key and nothing
        # is served. Only what this machine cannot give is changed: folders, and addresses that may be taken.
        changed = {
            "OPTGATE_DATA_DIR": f"{folder}/data",
            "OPTGATE_DECISION_LOG__PATH": f"{folder}/decisions",
            "OPTGATE_KEY_FILE": f"{folder}/none/optgate.key",
            "OPTGATE_SERVER__LISTEN": "127.0.0.1:0",
            "OPTGATE_SERVER__HTTP": "127.0.0.1:0",
            "OPTGATE_REPLICATION__LISTEN": "127.0.0.1:0",
        }
        try:
            started = subprocess.run(
                [binary, "serve", "--config", str(file)],
                capture_output=True,
                text=True,
                env=clean | rendered.environment() | changed,
                timeout=30,
                check=False,
            )
        except subprocess.TimeoutExpired:
            yield "a start without a key does not end"
            return
        if started.returncode != 77:
            yield f"a start with the Pod's variables ends with {started.returncode}: {started.stderr.strip()}"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--kubectl", required=True)
    kubectl = arguments.parse_args().kubectl
    tally = Tally()

    rendered = {name: Rendered.of(kubectl, HERE.parent / name, name) for name in FOLDERS}
    kustomizations = {str(f.parent.relative_to(HERE.parent)) for f in HERE.parent.rglob("kustomization.yaml")}
    tally.take("every folder is rendered", sorted(kustomizations ^ set(FOLDERS)))

    for name, made in rendered.items():
        for obj in made.objects:
            for version in VERSIONS:
                what = f"{name}: {obj['kind']}/{obj['metadata']['name']} is valid for Kubernetes {version}"
                tally.take(what, schema_faults(obj, version))
        checks = properties.EVERYWHERE + (properties.ANCHORS if FOLDERS[name] else [])
        for check in checks:
            tally.take(f"{name}: {check.__doc__}", check(made))
        if FOLDERS[name]:
            for check in (sources.settings_exist, sources.image_is_of_this_version):
                tally.take(f"{name}: {check.__doc__}", check(made, ROOT))

    dockerfile = (ROOT / "Dockerfile").read_text()
    tally.take(sources.the_image_holds_the_binary_only.__doc__, sources.the_image_holds_the_binary_only(dockerfile))

    # The checks themselves, on manifests with one thing wrong.
    good = rendered["examples/acme-air"]
    for number, (check, how) in enumerate(sabotage.SABOTAGE, start=1):
        caught = notices(check, sabotage.broken(good, how))
        tally.take(f"sabotage {number} is caught by {check.__name__}", [] if caught else ["it was not noticed"])
    checked = {check for check, _ in sabotage.SABOTAGE}
    every = properties.EVERYWHERE + properties.ANCHORS
    tally.take("every property was seen to fail", [c.__name__ for c in every if c not in checked])
    for number, (kind, how) in enumerate(sabotage.MISSPELT, start=1):
        for version in VERSIONS:
            wrong = sabotage.broken(good, lambda r, kind=kind, how=how: how(r.all(kind)[0])).all(kind)[0]
            caught = bool(list(schema_faults(wrong, version)))
            tally.take(f"misspelling {number} is caught for {version}", [] if caught else ["it was not noticed"])
    for wrong in ("USER 0", "COPY . /", "FROM debian"):
        caught = bool(list(sources.the_image_holds_the_binary_only(f"{dockerfile}\n{wrong}\n")))
        tally.take(f"an image with {wrong} is caught", [] if caught else ["it was not noticed"])

    binary = os.environ.get("OPTGATE_BIN")
    if binary:
        for name, made in rendered.items():
            if FOLDERS[name]:
                tally.take(f"{name}: {asked_of_optgate.__doc__}", asked_of_optgate(binary, made))

    print()
    if not binary:
        print("!!! NOT CHECKED: whether optgate accepts these policies and variables. Set OPTGATE_BIN to a built optgate.")
    print("not checked here, for want of a cluster: admission, scheduling, volumes, and that the network is closed")
    print(f"k8s: {tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
