"""Several servers as one cluster, and wires between them that can be held or cut."""

import asyncio
import random
import socket
import threading

from harness import *  # noqa: F403

# Below the range from which the system takes ports for outgoing connections, so that a port that was free stays free.
PORTS = range(15_000, 30_000)
STARTS = 5
CONVERGE_S = 60

UPDATE, OFFER, CODE = "delivery_update", "weekly_offers", "login_code"
TEMPLATES = (
    (UPDATE, UTILITY, "delivery_updates"),
    (OFFER, MARKETING, "offers"),
    (CODE, AUTHENTICATION, "login_codes"),
)
PEERS_CONFIG = CONFIG + "      login_codes: AUTHENTICATION\n"
EVERY_TOPIC = ("delivery_updates", "offers", "login_codes")


def free_port():
    """A port that nobody uses now. It may be taken meanwhile, so who uses it tries again with another."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Cluster:
    """Anchors that know each other, with one key."""

    def __init__(self, scene, count=3, knows=None, names="abcdefg", **settings):
        """`knows`: whom each dials, by index; all others where it is not given. `settings`: those of `replication`."""
        self.scene = scene
        self.key = scene.folder / "cluster.key"
        if not self.key.exists():
            run_optgate("key", "new", str(self.key))
        self.knows = knows or [[j for j in range(count) if j != i] for i in range(count)]
        self.config = PEERS_CONFIG + replication({"anchors": count, "heartbeat": "200ms", **settings})
        self.nodes = [scene.server(self.config, names[i]) for i in range(count)]
        self.choose_ports()

    def choose_ports(self):
        self.ports = [free_port() for _ in self.nodes]
        for node, port, known in zip(self.nodes, self.ports, self.knows):
            use_peers(node, self.key, port, [self.ports[j] for j in known])

    def start(self):
        for last in range(STARTS):
            for node in self.nodes:
                node.spawn()
            try:
                for node in self.nodes:
                    node.wait_ready()
                break
            except StartFailed as why:
                if "in use" not in str(why) or last == STARTS - 1:
                    raise
                for node in self.nodes:
                    node.kill()
                self.choose_ports()
        self.together()
        return self

    def together(self):
        """Waits until each node is connected to those it knows and is fresh."""
        for i, node in enumerate(self.nodes):
            known = {j for j, others in enumerate(self.knows) if i in others} | set(self.knows[i])
            connected(node, len(known - {i}))

    def edge(self, name, knows=None, **settings):
        """An edge of these anchors, not started."""
        settings = {"role": "edge", "anchors": len(self.nodes), "heartbeat": "200ms", **settings}
        node = self.scene.server(PEERS_CONFIG + replication(settings), name)
        node.key = self.key
        node.args = ["--key-file", str(self.key)]
        for port in [self.ports[i] for i in knows] if knows else self.ports:
            node.args += ["--peer", f"127.0.0.1:{port}"]
        return node

    def clients(self):
        return [node.client() for node in self.nodes]

    def converged(self, deadline_s=CONVERGE_S):
        """Waits until all hold the same events of every origin; those heads."""
        return converged(self.nodes, deadline_s)


def replication(settings):
    return "replication: { " + ", ".join(f"{name}: {value}" for name, value in settings.items()) + " }\n"


def use_peers(node, key, port, peers):
    node.key = key
    node.args = ["--key-file", str(key)]
    if port is not None:
        node.args += ["--peer-listen", f"127.0.0.1:{port}"]
    for peer in peers:
        node.args += ["--peer", f"127.0.0.1:{peer}"]


def run_optgate(*args, code=0):
    done = subprocess.run([BIN, *args], capture_output=True, text=True, timeout=120, env=SERVER_ENV)
    equal(done.returncode, code, f"exit code of optgate {' '.join(args)}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return done.stdout


def reach(node):
    """Waits until the server can be called, ready or not."""

    def look():
        if node.process.poll() is not None:
            raise StartFailed(f"the server ended with {node.process.returncode}:\n{node.tail()}")
        node.target, node.http = node.addresses()
        return node.target and node.http

    until("the server can be called", look, START_S)
    return node


def status(node):
    return node.standing_client().admin.GetStatus(admin.GetStatusRequest(), timeout=CALL_S)


def connected(node, count, deadline_s=CONVERGE_S):
    def look():
        now = status(node).replication
        return len(now.peers) >= count and not now.stale and not now.catching_up

    until(f"{node.folder.name} is connected to {count} peers and fresh", look, deadline_s)


def heads(node):
    return {o.origin: (o.last_sequence, o.chain_sha256) for o in status(node).ledger.origins}


def converged(nodes, deadline_s=CONVERGE_S):
    seen = []

    def look():
        seen[:] = [heads(node) for node in nodes]
        return all(found == seen[0] for found in seen)

    try:
        until("equal heads", look, deadline_s)
    except Failed as failed:
        sums = [{origin[:6]: head[0] for origin, head in found.items()} for found in seen]
        raise Failed(f"{failed}: {sums}") from None
    return seen[0]


def verified(nodes):
    """Every ledger verifies, asked over the API and read from disk by the command."""
    for node in nodes:
        answer = node.standing_client().admin.VerifyLedger(admin.VerifyLedgerRequest(), timeout=120)
        expect(answer.ok and not answer.faults, f"the ledger of {node.folder.name} verifies: {answer.faults[:3]}")
        run_optgate("ledger", "verify", "--data-dir", str(node.data), "--key-file", str(node.key))


def figure(node, name):
    """One of the server's metrics."""
    lines = [line for line in node.http_get("/metrics")[1].splitlines() if line.startswith(f"{name} ")]
    return float(lines[0].split()[-1]) if lines else 0.0


def said(node, *words):
    """A line of the server's log that has all these words."""
    for line in node.lines():
        text = json.dumps(line)
        if all(word in text for word in words):
            return line
    return None


def erase(client, person):
    return client.consent.EraseEvidence(
        consent_service.EraseEvidenceRequest(business_id=BUSINESS, recipient=person), timeout=CALL_S
    )


def put_templates(client):
    for name, category, topic in TEMPLATES:
        put_template(client, name, category, topic)


def agree(client, person, **fields):
    """An opt-in to every topic."""
    return record(client, person, opt_in(topics=EVERY_TOPIC), **fields)


def reason_of(answer):
    return "ALLOW" if answer.decision == ALLOW else reason.Reason.Name(answer.reason).removeprefix("REASON_")


def until_answered(client, person, template, wanted, what, deadline_s=CONVERGE_S):
    """Asks until the answer is the wanted one; it."""
    seen = set()

    def look():
        answer = check(client, person, template, mode=PEEK)
        seen.add(reason_of(answer))
        return answer if reason_of(answer) == wanted else None

    try:
        return until(f"{what}: {wanted}", look, deadline_s)
    except Failed as failed:
        raise Failed(f"{failed}; answered were {sorted(seen)}") from None


# --- wires ------------------------------------------------------------------------------------------------------


class Wires:
    """Small TCP proxies in a thread of their own, one for each pair of nodes in each direction of dialling."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def wire(self):
        return asyncio.run_coroutine_threadsafe(Wire().listen(), self.loop).result(CALL_S)

    def tell(self, wire, **state):
        asyncio.run_coroutine_threadsafe(wire.tell(**state), self.loop).result(CALL_S)

    def end(self):
        async def leave():
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.loop.shutdown_asyncgens()

        asyncio.run_coroutine_threadsafe(leave(), self.loop).result(CALL_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


class Wire:
    """One proxy. Held, it forwards nothing and closes nothing, in one direction or both; cut, it closes what there is; paced, it takes
    that long for 64 KiB."""

    async def listen(self):
        self.target = None  # the port to forward to, once it is known
        self.is_cut = False
        self.there, self.back = asyncio.Event(), asyncio.Event()
        self.there.set()
        self.back.set()
        self.writers = set()
        self.bytes = 0
        self.pace_s = 0
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def tell(self, target=None, cut=None, hold_there=None, hold_back=None, pace_s=None):
        self.target = target or self.target
        self.pace_s = self.pace_s if pace_s is None else pace_s
        for event, held in ((self.there, hold_there), (self.back, hold_back)):
            if held is not None:
                event.clear() if held else event.set()
        if cut is not None:
            self.is_cut = cut
            if cut:
                for writer in list(self.writers):
                    writer.transport.abort()

    async def serve(self, reader, writer):
        self.writers.add(writer)
        onward = None
        try:
            if self.is_cut or self.target is None:
                return
            # A connection that is made while the wire is held stands at this end only.
            await self.there.wait()
            far_reader, onward = await asyncio.open_connection("127.0.0.1", self.target)
            self.writers.add(onward)
            await asyncio.gather(
                self.pump(reader, onward, self.there), self.pump(far_reader, writer, self.back)
            )
        except OSError:
            pass
        finally:
            for end in (writer, onward):
                if end is not None:
                    self.writers.discard(end)
                    end.close()

    async def pump(self, reader, writer, passes):
        try:
            while data := await reader.read(1 << 16):
                await passes.wait()
                if self.pace_s:
                    await asyncio.sleep(self.pace_s * len(data) / (1 << 16))
                writer.write(data)
                self.bytes += len(data)
                await writer.drain()
            await passes.wait()
            writer.write_eof()
        except OSError:
            await passes.wait()
            writer.transport.abort()
