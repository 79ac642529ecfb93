"""Kills the server again and again under load: nothing acknowledged may be lost, and every start must succeed.

By itself, for longer runs: `tests/system/run --crash --cycles 2000 --seed 7`.
"""

import argparse
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

from harness import *  # noqa: F403
from story import exported, trail

CYCLES = 200
# Stores at a time, which share the cycles; all of them together end within WITHIN_S.
AT_ONCE = 2
WITHIN_S = 1_200
CALLERS = 4
# A caller moves on to other people every few cycles: an opt-in must name the opt-outs of every run of the server within the
# clock margin, and their number is bounded.
PEOPLE_PER_CALLER = 20
CYCLES_PER_GROUP = 20
TEMPLATE = "delivery_update"
# The kill falls this long after the load began, or, one time in five, after the process was started.
LOAD_S = (0.02, 0.8)
STARTING_S = (0.0, 0.5)
STARTING_SHARE = 0.2
# Errors of a call that a dying server cuts off; everything else is a fault.
CUT_OFF = ("UNAVAILABLE", "CANCELLED", "UNKNOWN", "INTERNAL")


class Person:
    """One person, changed by one caller only, so that what must come out is known."""

    def __init__(self, number):
        self.address = phone(number)
        self.number = number
        self.acknowledged = set()  # ids of events
        self.newest_outs = {}  # origin -> its newest opt-out: what an opt-in has to name
        self.out = False
        self.opted_in = False
        self.named = {}  # request_id of an opt-in -> the opt-outs it named
        self.unsure = False  # a change was cut off: it may have been written or not
        self.fresh = False  # changed since the last comparison

    def opted_out(self, events):
        self.acknowledged |= {key(event) for event in events}
        self.newest_outs |= {event.origin: event for event in events}
        self.out = self.fresh = True

    def opted_in_again(self, events):
        self.acknowledged |= {key(event) for event in events}
        self.out, self.opted_in = False, True
        self.fresh = True

    def wanted(self):
        if self.out:
            return "OPTED_OUT"
        return None if self.opted_in else "NO_CONSENT"

    def learn(self, events):
        """Takes over what the store says, after what was acknowledged has been found in it."""
        self.newest_outs, self.out, self.opted_in = {}, False, False
        for event in events:
            if event.WhichOneof("kind") == "opt_out":
                self.newest_outs[event.event.origin] = event.event
                self.out = True
            elif event.WhichOneof("kind") == "opt_in":
                self.opted_in = True
                named = {out.origin: out.sequence for out in self.named[event.request_id]}
                self.out = any(out.sequence > named.get(origin, 0) for origin, out in self.newest_outs.items())
        self.unsure = self.fresh = False


def key(event):
    return (event.origin, event.sequence)


class Caller:
    """Acts for its people until the server dies."""

    def __init__(self, name, seed):
        self.name = name
        self.chance = random.Random(seed)
        self.people = []
        self.group = []
        self.records = self.checks = 0
        self.faults = []

    def move_on(self):
        first = len(self.people)
        self.group = [Person(f"+49151{self.name}{first + i:07d}") for i in range(PEOPLE_PER_CALLER)]
        self.people += self.group

    def run(self, client, stop):
        try:
            while not stop.is_set() and not self.faults:
                self.act(client, self.chance.choice(self.group))
        except grpc.RpcError as error:
            if error.code().name not in CUT_OFF or not stop.is_set():
                # Before the kill nothing may fail; the race between the two is looked at again by the driver.
                self.faults.append(f"{error.code().name}: {error.details()}")
        except Failed as failed:
            self.faults.append(str(failed))

    def act(self, client, person):
        what = self.chance.random()
        request_id = f"{self.name}-{self.chance.getrandbits(64):016x}"
        if what < 0.3:
            person.unsure = True
            person.opted_out(record(client, person.address, opt_out(), request_id=request_id).events)
            person.unsure = False
            self.records += 1
        elif what < 0.6:
            named = list(person.newest_outs.values())
            person.named[request_id] = named
            person.unsure = True
            answer = record(client, person.address, opt_in(when=at(), supersedes=named), request_id=request_id)
            person.opted_in_again(answer.events)
            person.unsure = False
            self.records += 1
        else:
            answer = check(client, person.address, TEMPLATE, mode=PEEK)
            self.judge(person, answer, "under load")
            self.checks += 1

    def judge(self, person, answer, when):
        found = None if answer.decision == ALLOW else reason.Reason.Name(answer.reason).removeprefix("REASON_")
        equal(found, person.wanted(), f"{when}, caller {self.name}")

    def compare(self, client, everybody):
        """What was acknowledged is there, and checks say so. The number of events compared."""
        compared = 0
        for person in self.people:
            if not (everybody or person.unsure or person.fresh):
                continue
            events = trail(client, person.address)
            found = {key(event.event) for event in events}
            lost = person.acknowledged - found
            expect(not lost, f"{len(lost)} acknowledged events are lost: {sorted(lost)[:5]}")
            if not person.unsure:
                equal(found - person.acknowledged, set(), "events that nobody recorded")
            person.acknowledged = found
            person.learn(events)
            self.judge(person, check(client, person.address, TEMPLATE, mode=PEEK), "after a restart")
            compared += len(found)
        return compared


def drive(scene, cycles, seed):
    chance = random.Random(seed)
    callers = [Caller(str(i), chance.random()) for i in range(CALLERS)]
    server = scene.server().start()
    put_template(server.client(), TEMPLATE, UTILITY, "delivery_updates")
    server.kill()
    starting = compared = 0
    slowest = 0.0
    for cycle in range(cycles):
        if cycle % CYCLES_PER_GROUP == 0:
            for caller in callers:
                caller.move_on()
        if chance.random() < STARTING_SHARE:
            starting += 1
            server.spawn()
            # The moment of the kill is what is being tried, not a wait for anything.
            time.sleep(chance.uniform(*STARTING_S))
            expect(server.process.poll() is None, f"cycle {cycle}: the server ended by itself:\n{server.tail()}")
            server.kill()
            continue
        begun = time.monotonic()
        server.start()
        slowest = max(slowest, time.monotonic() - begun)
        client = server.client()
        for caller in callers:
            compared += caller.compare(client, everybody=False)
        stop = threading.Event()
        threads = [threading.Thread(target=c.run, args=(server.client(), stop)) for c in callers]
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(*LOAD_S))
        expect(server.process.poll() is None, f"cycle {cycle}: the server ended by itself:\n{server.tail()}")
        stop.set()
        server.process.kill()
        for thread in threads:
            thread.join()
        server.kill()
        faults = [fault for caller in callers for fault in caller.faults]
        expect(not faults, f"cycle {cycle}: {faults[:3]}")
        if (cycle + 1) % 50 == 0:
            print(f"       {cycle + 1} cycles, {sum(c.records for c in callers)} records", flush=True)
    server.start()
    client = server.client()
    for caller in callers:
        compared += caller.compare(client, everybody=True)
    wanted = {event for caller in callers for person in caller.people for event in person.acknowledged}
    events, _ = exported(client, business_id=BUSINESS)
    lost = wanted - {key(event.event) for event in events}
    expect(not lost, f"{len(lost)} acknowledged events are not exported: {sorted(lost)[:5]}")
    verified = client.admin.VerifyLedger(admin.VerifyLedgerRequest(), timeout=120)
    expect(verified.ok, f"the ledger verifies: {verified.faults[:3]}")
    equal(server.stop(), 0, "exit code of the last stop")
    print(
        f"       {cycles} kills, {starting} of them during start-up; {sum(c.records for c in callers)} records and "
        f"{sum(c.checks for c in callers)} checks answered; {len(wanted)} events, 0 lost; slowest start {slowest:.2f} s",
        flush=True,
    )
    expect(wanted and compared, "there was something to compare")


@test
def test_crashes(scene):
    """In processes of their own: one interpreter drives one server, and a start is also tried beside a busy neighbour."""
    runs = []
    for _ in range(AT_ONCE):
        seed, cycles = random.SystemRandom().getrandbits(32), CYCLES // AT_ONCE
        print(f"       {cycles} cycles (again: tests/system/run --crash --cycles {cycles} --seed {seed})", flush=True)
        command = [sys.executable, "-B", str(Path(__file__).with_name("main.py")), "--crash"]
        command += ["--cycles", str(cycles), "--seed", str(seed)]
        runs.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    until = time.monotonic() + WITHIN_S
    try:
        for run in runs:
            said, _ = run.communicate(timeout=max(1, until - time.monotonic()))
            expect(run.returncode == 0, f"a run of kills ended with {run.returncode}:\n{said}")
            # Without the verdict on a suite of one test.
            print("".join(line for line in said.splitlines(True) if line.startswith(" ")), end="", flush=True)
    finally:
        for run in runs:
            # A driver that is told to end takes its server with it.
            run.terminate()
            run.wait()


def main(arguments):
    # As an exception, so that the server is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parser = argparse.ArgumentParser(description="Kills the server again and again and looks for what was lost.")
    parser.add_argument("--cycles", type=int, default=CYCLES)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    options = parser.parse_args(arguments)

    def crashes(scene):
        print(f"       seed {options.seed}", flush=True)
        drive(scene, options.cycles, options.seed)

    TESTS[:] = [crashes]
    return run([])
