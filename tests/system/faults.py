"""Full disks, missing keys, bad configurations, failing syncs, second processes, stops."""

import concurrent.futures
import os
import re
import shutil
import signal
import subprocess
import threading

from harness import *  # noqa: F403
from story import exported

TEMPLATE = "delivery_update"
ANNA = phone("+4915123456789")


def ends(server, code, *words):
    """The server, started just now, must end by itself with `code` and say `words`."""
    try:
        found = server.process.wait(START_S)
    except subprocess.TimeoutExpired:
        raise Failed(f"the server goes on, though it should have ended with {code}:\n{server.tail()}") from None
    server.process = None
    said = server.tail()
    equal(found, code, f"exit code; it said:\n{said}")
    for word in words:
        expect(word in said, f"it does not say {word!r}:\n{said}")
    return said


# --- disk nearly full -------------------------------------------------------------------------------------------

DISK_MIB = 64
DISK_CONFIG = CONFIG + "min_free_mib: 8\nledger: { segment_mib: 4, opt_out_reserve_mib: 4 }\ndecision_log: null\n"


class SmallDisk:
    """A tmpfs in a mount namespace of its own, so that nothing stays mounted whatever happens."""

    def __init__(self, path, size_mib):
        path.mkdir()
        script = f'mount -t tmpfs -o size={size_mib}m tmpfs "$0" && echo mounted && exec cat'
        self.holder = subprocess.Popen(
            ["unshare", "-Urm", "sh", "-c", script, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self.holder.stdout.readline() != "mounted\n":
            why = self.holder.stderr.read().strip()
            self.end()
            raise NotRun(f"no tmpfs can be mounted here ({why}): the nearly full disk is NOT TESTED")
        self.seen = pathlib.Path(f"/proc/{self.holder.pid}/root{path}")
        self.prefix = ["nsenter", "-t", str(self.holder.pid), "-U", "--preserve-credentials", "-m"]
        self.filler = self.seen / "filler"

    def free_bytes(self):
        stat = os.statvfs(self.seen)
        return stat.f_bavail * stat.f_frsize

    def fill(self, leave_bytes):
        """Writes until only so much is left."""
        with open(self.filler, "ab") as filler:
            while self.free_bytes() > leave_bytes:
                try:
                    filler.write(b"\0" * min(1 << 16, self.free_bytes() - leave_bytes))
                    filler.flush()
                except OSError:
                    return

    def end(self):
        self.holder.stdin.close()
        self.holder.stdout.close()
        self.holder.stderr.close()
        self.holder.wait()


@test
def test_disk_nearly_full(scene):
    server = scene.server(DISK_CONFIG)
    disk = SmallDisk(server.data, DISK_MIB)
    try:
        nearly_full(server, disk)
    finally:
        server.kill()
        disk.end()


def nearly_full(server, disk):
    server.start(prefix=disk.prefix)
    client = server.client()
    put_template(client, TEMPLATE, UTILITY, "delivery_updates")
    people = [phone(f"+49151234{i:05d}") for i in range(1_000)]
    for person in people[:100]:
        record(client, person, opt_in())
    spare = phone("+4915199999999")
    record(client, spare, opt_in())

    def low():
        return client.admin.GetStatus(admin.GetStatusRequest(), timeout=CALL_S).disk_low

    expect(not low(), "the disk is not low yet")
    disk.fill(4 << 20)
    until("the disk is seen to be low", low)
    refusal = refused(lambda: record(client, people[0], opt_in()), "RESOURCE_EXHAUSTED", "an opt-in on a low disk")
    equal(refusal.reason, "DISK_LOW", "the reason")
    refused(lambda: put_template(client, "other", UTILITY), "RESOURCE_EXHAUSTED", "a template on a low disk")
    allowed(check(client, people[0], TEMPLATE), "a check on a low disk")

    disk.fill(0)
    for i, person in enumerate(people):
        answer = record(client, person, opt_out(text="Please stop. " * 10), request_id=f"out-{i}")
        expect(answer.events, f"opt-out {i} on a full disk")
        if i < 100:
            denied(check(client, person, TEMPLATE), "OPTED_OUT", f"after opt-out {i} on a full disk")
    allowed(check(client, spare, TEMPLATE), "a check on a full disk")
    refused(lambda: record(client, spare, opt_in()), "RESOURCE_EXHAUSTED", "an opt-in on a full disk")
    equal(server.http_status("/healthz"), 200, "liveness on a full disk")

    # Not even a crash on the full disk loses them.
    server.kill()
    server.start(prefix=disk.prefix)
    client = server.client()
    answers = client.send.BatchCheckSend(
        send.BatchCheckSendRequest(
            defaults=check_request(None, TEMPLATE, mode=PEEK),
            items=[send.CheckSendRequest(recipient=person) for person in people],
        ),
        timeout=CALL_S,
    ).results
    for i, answer in enumerate(answers):
        denied(answer, "OPTED_OUT", f"opt-out {i} after a crash on the full disk")
    allowed(check(client, spare, TEMPLATE), "an opt-in after a crash on the full disk")

    disk.filler.unlink()
    until("the disk is seen to have space again", lambda: not low_now(client))

    def opts_in():
        try:
            return record(client, phone("+4915188888888"), opt_in()).events
        except grpc.RpcError as error:
            expect(error.code().name == "RESOURCE_EXHAUSTED", f"{error.code()}: {error.details()}")
            return None

    until("opt-ins are taken again", opts_in)
    verified = client.admin.VerifyLedger(admin.VerifyLedgerRequest(), timeout=CALL_S)
    expect(verified.ok, f"the ledger verifies: {verified.faults}")
    equal(server.stop(), 0, "exit code")
    server.start(prefix=disk.prefix)
    client = server.client()
    denied(check(client, people[-1], TEMPLATE), "OPTED_OUT", "after a restart with space")
    events, _ = exported(client, business_id=BUSINESS)
    equal(sum(event.WhichOneof("kind") == "opt_out" for event in events), 1_000, "opt-outs in the export")


def low_now(client):
    return client.admin.GetStatus(admin.GetStatusRequest(), timeout=CALL_S).disk_low


# --- syncs that fail --------------------------------------------------------------------------------------------


@test
def test_fsync_error(scene):
    if not shutil.which("strace"):
        raise NotRun("no strace here: a failing fdatasync is NOT TESTED")
    server = scene.server().start()
    client = server.client()
    put_template(client, TEMPLATE, UTILITY, "delivery_updates")
    kept = record(client, ANNA, opt_out()).events
    log = scene.folder / "strace"
    with open(log, "wb") as out:
        strace = subprocess.Popen(
            ["strace", "-f", "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO", "-p"]
            + [str(server.process.pid)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        until("strace is attached", lambda: b"attached" in log.read_bytes() or strace.poll() is not None)
        if strace.poll() is not None:
            raise NotRun(f"strace may not attach: a failing fdatasync is NOT TESTED: {log.read_text()}")
        for _ in range(3):
            refusal = refused(lambda: record(client, phone("+4915123450000"), opt_out()), "UNAVAILABLE", "a failed sync")
            equal(refusal.reason, "LEDGER_FAILED", "the reason")
        expect(b"INJECTED" in log.read_bytes(), "a sync failed")
        until("liveness fails", lambda: server.http_status("/healthz") not in (200, None))
        expect(server.http_status("/readyz") != 200, "readiness fails too")
    finally:
        strace.send_signal(signal.SIGTERM)
        strace.wait()
    # The disk is well again, and still nothing is acknowledged: what an fsync once lost it never reports twice.
    refused(lambda: record(client, phone("+4915123450000"), opt_out()), "UNAVAILABLE", "after the failure")
    server.kill()
    server.start()
    client = server.client()
    denied(check(client, ANNA, TEMPLATE), "OPTED_OUT", "acknowledged before the failure")
    expect(record(client, phone("+4915123450000"), opt_out()).events, "the next start takes opt-outs again")
    events, _ = exported(client, business_id=BUSINESS)
    expect(kept[0] in [event.event for event in events], "the acknowledged event is there")
    expect(client.admin.VerifyLedger(admin.VerifyLedgerRequest(), timeout=CALL_S).ok, "the ledger verifies")


# --- starts that must fail --------------------------------------------------------------------------------------


@test
def test_second_process(scene):
    server = scene.server().start()
    client = server.client()
    second = scene.server(name="second")
    second.data = server.data
    second.spawn()
    ends(second, 75, "another process")
    record(client, ANNA, opt_out())
    equal(server.http_status("/readyz"), 200, "the first one goes on")


@test
def test_keys(scene):
    server = scene.server().start()
    record(server.client(), ANNA, opt_out())
    equal(server.stop(), 0, "exit code")
    key = server.data / "optgate.key"
    expect(key.stat().st_mode & 0o077 == 0, "nobody else may read the key")
    saved = key.rename(scene.folder / "saved.key")

    server.spawn()
    ends(server, 77, "there is no key file", str(key), "backup")
    expect(not key.exists(), "no new key is made for an old ledger")

    other = scene.server(name="other").start()
    shutil.copy(other.data / "optgate.key", key)
    server.spawn()
    ends(server, 77, "another key")

    key.write_text("no key\n")
    server.spawn()
    ends(server, 77, "is not a key file")

    key.unlink()
    server.args = ["--key-file", str(saved)]
    client = server.start().client()
    equal(len(exported(client, business_id=BUSINESS)[0]), 1, "events with the right key")


@test
def test_bad_configurations(scene):
    faults = """\
server: { drain: soon }
no_such_key: 1
min_free_mib: many
defaults:
  evidence: lax
  clock_margin: 5 parsecs
  consent_required: [UTILITY]
  limits: { WHATSAPP: { pair: { every: 0s, burst: -1 } } }
"""
    server = scene.server(faults)
    server.spawn()
    said = ends(server, 64)
    for line, word in ((1, "drain"), (2, "no_such_key"), (3, "min_free_mib"), (5, "evidence"), (6, "clock_margin")):
        expect(re.search(rf"optgate.yaml:{line}:\d+:.*{word}", said), f"line {line} ({word}) is not named:\n{said}")
    expect(not server.data.exists(), "nothing is made with a bad configuration")

    server.config.write_text("defaults: { shadow: [{ rule: OPTED_OUT, until: 2099-01-31 }] }\n")
    server.spawn()
    ends(server, 64, "OPTED_OUT", "shadow")
    server.config.write_text("server: [\n")
    server.spawn()
    ends(server, 64, "optgate.yaml:")
    server.config.unlink()
    server.args = ["--config", str(scene.folder / "none.yaml")]
    server.spawn()
    ends(server, 64, "none.yaml")


# --- while it runs ----------------------------------------------------------------------------------------------


@test
def test_hot_reload(scene):
    server = scene.server().start()
    client = server.client()
    put_template(client, TEMPLATE, UTILITY, "delivery_updates")

    def status():
        return client.admin.GetStatus(admin.GetStatusRequest(), timeout=CALL_S)

    first = status().rules_version
    denied(check(client, ANNA, TEMPLATE, mode=PEEK), "NO_CONSENT", "by the first rules")
    looser = CONFIG.replace("defaults:\n", "defaults:\n  consent_required: [MARKETING]\n", 1)
    server.config.write_text(looser)
    second = until("the new rules are in force", lambda: (v := status().rules_version) != first and v)
    answer = allowed(check(client, ANNA, TEMPLATE, mode=PEEK), "by the new rules")
    equal(answer.rules_version, second, "the rules' version in an answer")

    server.config.write_text(looser.replace("UTILITY", "NO_CATEGORY"))
    error = until("the fault is seen", lambda: status().rules_error)
    expect("NO_CATEGORY" in error or "delivery_updates" in error, f"the error names the fault: {error}")
    equal(server.http_status("/readyz"), 200, "readiness with a bad file")
    equal(status().rules_version, second, "the last good rules")
    allowed(check(client, ANNA, TEMPLATE, mode=PEEK), "by the last good rules")

    # As an editor or Kubernetes writes: a new file takes the old one's place.
    fresh = server.config.with_suffix(".new")
    fresh.write_text(CONFIG)
    fresh.rename(server.config)
    until("the first rules are back", lambda: status().rules_version == first)
    equal(status().rules_error, "", "the error is gone")
    denied(check(client, ANNA, TEMPLATE, mode=PEEK), "NO_CONSENT", "by the first rules again")


@test
def test_stop_under_load(scene):
    server = scene.server().start()
    client = server.client()
    put_template(client, TEMPLATE, UTILITY, "delivery_updates")
    acknowledged, faults, some = [], [], threading.Event()

    def caller(name):
        for i in range(1_000_000):
            try:
                acknowledged.extend(record(client, phone(f"+49151{name}{i:07d}"), opt_out()).events)
            except grpc.RpcError as error:
                if error.code().name not in ("UNAVAILABLE", "CANCELLED"):
                    faults.append(f"{error.code().name}: {error.details()}")
                return
            except ValueError:
                return  # the channel was closed
            if len(acknowledged) > 100:
                some.set()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for name in range(4):
            pool.submit(caller, name)
        expect(some.wait(CALL_S), "the load is under way")
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(STOP_S)
        took = time.monotonic() - begun
    equal(code, 0, "exit code after SIGTERM")
    server.process = None
    expect(took < 15, f"the stop took {took:.1f} s")
    equal(faults, [], "errors of callers during the stop")
    expect("stopped in order" in server.tail(), "it says that it stopped in order")
    client = server.start().client()
    found = {(e.event.origin, e.event.sequence) for e in exported(client, business_id=BUSINESS)[0]}
    lost = {(e.origin, e.sequence) for e in acknowledged} - found
    expect(not lost, f"{len(lost)} of {len(acknowledged)} acknowledged events are lost")


@test
def test_watch_ends_with_the_server(scene):
    server = scene.server().start()
    client = server.client()
    request = consent_service.WatchConsentsRequest(business_id=BUSINESS, from_now=True)
    request.heartbeat_interval.seconds = 1
    watch = client.consent.WatchConsents(request, timeout=60)
    equal(len(next(watch).events), 0, "the first sign of life")
    server.process.send_signal(signal.SIGTERM)
    refused(lambda: watch, "UNAVAILABLE", "the end of the watch")
    equal(server.process.wait(STOP_S), 0, "exit code")
