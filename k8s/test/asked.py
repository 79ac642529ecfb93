"""What a built optgate says to the policies and variables of the Pods."""

import contextlib
import json
import os
import pathlib
import stat
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

WITHIN_S = 20
KEY_MISSING, CONFIG_WRONG, UNAVAILABLE = 77, 64, 69


def clean():
    """The variables of this machine that a start may see."""
    return {"PATH": os.environ.get("PATH", "")}


def linted(binary, file):
    return subprocess.run(
        [binary, "policy", "lint", str(file)], capture_output=True, text=True, env=clean(), timeout=30, check=False
    )


def of_anchors(binary, rendered):
    """The mounted policy passes `policy lint`, and a start with the Pod's own variables gets as far as the key."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "optgate.yaml"
        file.write_text(rendered.policy())
        lint = linted(binary, file)
        if lint.returncode != 0 or "no faults, no warnings" not in lint.stdout:
            yield f"lint: {lint.stdout.strip()} {lint.stderr.strip()}"
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
                env=clean() | rendered.environment() | changed,
                timeout=30,
                check=False,
            )
        except subprocess.TimeoutExpired:
            yield "a start without a key does not end"
            return
        if started.returncode != KEY_MISSING:
            yield f"a start with the Pod's variables ends with {started.returncode}: {started.stderr.strip()}"


def of_the_stand_in(binary, file):
    """An edge whose kustomization forgot the anchors' policy does not start, and says why."""
    lint = linted(binary, file)
    if lint.returncode != CONFIG_WRONG or "the_policy_of_the_anchors_is_missing" not in lint.stdout + lint.stderr:
        yield f"lint ends with {lint.returncode}: {lint.stdout.strip()} {lint.stderr.strip()}"


def of_edges(binary, rendered):
    """With its Pod's own variables and no anchor, an edge is alive, not ready, keeps an opt-out over SIGKILL, and ends in order."""
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        (place / "optgate.yaml").write_text(rendered.policy())
        key = place / "optgate.key"
        subprocess.run([binary, "key", "new", str(key)], capture_output=True, env=clean(), timeout=30, check=True)
        # The Secret's mode, but for the owner, who is another here.
        key.chmod(0o440)
        edge = rendered.edges()[0]
        given = edge.environment()
        changed = {
            "OPTGATE_DATA_DIR": f"{folder}/data",
            "OPTGATE_KEY_FILE": str(key),
            "OPTGATE_SERVER__UDS": f"{folder}/api.sock",
            "OPTGATE_ADDRESS": f"unix:{folder}/api.sock",
            "OPTGATE_SERVER__HTTP": "127.0.0.1:0",
            # Where nobody listens.
            "OPTGATE_REPLICATION__PEERS": '["127.0.0.1:1"]',
        }
        variables = clean() | given | changed
        with Served(binary, place / "optgate.yaml", variables) as first:
            yield from looked_at(first)
            mode = stat.S_IMODE((place / "api.sock").stat().st_mode)
            if mode != int(given["OPTGATE_SERVER__UDS_MODE"], 8):
                yield f"the socket's mode is {mode:o}"
            words = ["record", "opt-out", "--business", "acme-air", "--to", "+4915112345678", "--channel", "WHATSAPP"]
            told = asked(binary, variables, *words, "--method", "KEYWORD", "--text", "STOP")
            if told.returncode != UNAVAILABLE or "kept here" not in told.stdout + told.stderr:
                yield f"an opt-out ends with {told.returncode}: {told.stdout} {told.stderr}"
            first.process.kill()
            first.process.wait()
        # The container is started again: the socket is still there, the outbox too.
        with Served(binary, place / "optgate.yaml", variables) as second:
            yield from looked_at(second)
            status = asked(binary, variables, "status")
            if "1 item for an anchor" not in status.stdout:
                yield f"after SIGKILL status says: {status.stdout} {status.stderr}"
            begun = time.monotonic()
            second.process.terminate()
            code = second.process.wait(WITHIN_S)
            took = time.monotonic() - begun
            drain = int(given["OPTGATE_SERVER__DRAIN"].removesuffix("s"))
            if code != 0 or took > drain + 4:
                yield f"SIGTERM ends it with {code} after {took:.1f} s"


def of_edges_beside_anchors(binary, rendered):
    """With its Pod's own variables and policy an edge becomes ready beside two anchors that have theirs, and an opt-out is replicated."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        place = pathlib.Path(folder)
        (place / "optgate.yaml").write_text(rendered.policy())
        subprocess.run([binary, "key", "new", f"{folder}/key"], capture_output=True, env=clean(), timeout=30, check=True)
        peers = []
        for name in ("a", "b"):
            changed = {
                "OPTGATE_DATA_DIR": f"{folder}/{name}",
                "OPTGATE_DECISION_LOG__PATH": f"{folder}/{name}-decisions",
                "OPTGATE_KEY_FILE": f"{folder}/key",
                "OPTGATE_SERVER__LISTEN": "127.0.0.1:0",
                "OPTGATE_SERVER__HTTP": "127.0.0.1:0",
                "OPTGATE_REPLICATION__LISTEN": "127.0.0.1:0",
                "OPTGATE_REPLICATION__PEERS": json.dumps(peers),
            }
            anchor = Served(binary, place / "optgate.yaml", clean() | rendered.cluster.environment() | changed)
            running.enter_context(anchor)
            peers.append(anchor.told("listening for peers"))
        changed = {
            "OPTGATE_DATA_DIR": f"{folder}/edge",
            "OPTGATE_KEY_FILE": f"{folder}/key",
            "OPTGATE_SERVER__UDS": f"{folder}/api.sock",
            "OPTGATE_ADDRESS": f"unix:{folder}/api.sock",
            "OPTGATE_SERVER__HTTP": "127.0.0.1:0",
            "OPTGATE_REPLICATION__PEERS": json.dumps(peers),
        }
        variables = clean() | rendered.edges()[0].environment() | changed
        edge = running.enter_context(Served(binary, place / "optgate.yaml", variables))
        until = time.monotonic() + WITHIN_S
        while edge.answer("/readyz") != 200:
            if time.monotonic() > until:
                yield f"it is not ready: {asked(binary, variables, 'status').stdout}"
                return
            time.sleep(0.1)
        words = ["record", "opt-out", "--business", "acme-air", "--to", "+4915112345678", "--channel", "WHATSAPP"]
        told = asked(binary, variables, *words, "--method", "KEYWORD", "--text", "STOP")
        if told.returncode != 0 or "REPLICATED" not in told.stdout:
            yield f"an opt-out ends with {told.returncode}: {told.stdout} {told.stderr}"


def asked(binary, variables, *words):
    return subprocess.run(
        [binary, *words], capture_output=True, text=True, env=variables, timeout=WITHIN_S, check=False
    )


def looked_at(served):
    for path, wanted in {"/healthz": 200, "/readyz": 503}.items():
        found = served.answer(path)
        if found != wanted:
            yield f"{path} answers {found}, not {wanted}"


class Served(contextlib.AbstractContextManager):
    """An optgate that runs until the block ends."""

    def __init__(self, binary, file, variables):
        self.process = subprocess.Popen(
            [binary, "serve", "--config", str(file)],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines, self.addresses = [], {}
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        try:
            self.http = self.told("health and metrics are on /healthz, /readyz and /metrics")
            self.told("serving gRPC")
        except LookupError:
            self.__exit__()
            raise

    def read(self):
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line)
                with contextlib.suppress(ValueError):
                    said = json.loads(line)
                    self.addresses[said["message"]] = said.get("address")
                self.changed.notify_all()
        with self.changed:
            # It ended: whoever waits is to look at what it said.
            self.lines.append("")
            self.changed.notify_all()

    def told(self, message):
        """The address that the log names with a message; waits for it."""
        with self.changed:
            self.changed.wait_for(lambda: message in self.addresses or self.lines[-1:] == [""], WITHIN_S)
            if message not in self.addresses:
                raise LookupError(f"it does not say {message!r}: {''.join(self.lines)}")
            return self.addresses[message]

    def answer(self, path):
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=WITHIN_S) as answer:
                return answer.status
        except urllib.error.HTTPError as answer:
            return answer.code

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.reader.join(WITHIN_S)
        self.process.stdout.close()
