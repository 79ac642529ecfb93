"""What must hold between the manifests and the rest of the project: settings, versions, the image."""

import re
import shlex

import yaml


# Read by optgate's commands, which may be run beside the server.
NO_SETTINGS = {"OPTGATE_ADDRESS"}


def settings_exist(environment, root):
    """Each OPTGATE_ variable of the Pod names a setting that optgate.example.yaml shows."""
    known = yaml.safe_load((root / "optgate.example.yaml").read_text())
    for name in environment:
        if name.startswith("OPTGATE_") and name not in NO_SETTINGS:
            at = known
            for part in name.removeprefix("OPTGATE_").lower().split("__"):
                if not isinstance(at, dict) or part not in at:
                    yield f"{name} names no setting"
                    break
                at = at[part]


def image_is_of_this_version(container, root):
    """The image's tag is the version in Cargo.toml."""
    version = re.search(r'^version = "(.+)"$', (root / "Cargo.toml").read_text(), re.MULTILINE)[1]
    if container["image"] != f"optgate:{version}":
        yield f"the image is {container['image']}, the version {version}"


def instructions(text):
    """A Dockerfile's instructions, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def the_image_holds_the_binary_only(text):
    """The last stage of the Dockerfile is empty but for one file, and runs it as the Pods' user."""
    stages = []
    for word, rest in instructions(text):
        if word == "FROM":
            stages.append([])
        if stages:
            stages[-1].append((word, rest))
    if len(stages) < 2 or stages[-1][0] != ("FROM", "scratch"):
        yield "the last stage does not start from scratch"
        return
    last = stages[-1][1:]
    copied = [shlex.split(rest) for word, rest in last if word in ("COPY", "ADD")]
    if len(copied) != 1 or copied[0][-1] != "/optgate":
        yield f"the image holds {copied}"
    if [rest for word, rest in last if word == "USER"] != ["65532:65532"]:
        yield "the image does not run as user 65532"
    if [rest for word, rest in last if word == "ENTRYPOINT"] != ['["/optgate"]']:
        yield "the image does not run the binary"
    if extra := {word for word, _ in last} - {"COPY", "USER", "ENTRYPOINT", "LABEL"}:
        yield f"the last stage does more: {extra}"
    if not any(word == "RUN" and "musl" in rest and "--locked" in rest for stage in stages[:-1] for word, rest in stage):
        yield "no stage builds a static binary from the locked dependencies"
