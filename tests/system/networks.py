"""Networks between nodes that can be taken apart: of real network namespaces, or of TCP proxies where those cannot be made."""

import ctypes
import os
import subprocess
import threading

from cluster import *  # noqa: F403

CLONE_NEWNET = 0x40000000
# Addresses that exist inside the namespaces alone.
NETWORK = "10.213.77"
PEER_PORT = 7000


def tool(*command, where=None):
    """Runs a tool of the system, in a namespace or here."""
    inside = ["ip", "netns", "exec", where] if where else []
    done = subprocess.run([*inside, *command], capture_output=True, text=True, timeout=CALL_S)
    if done.returncode != 0:
        raise Failed(f"`{' '.join(command)}`: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def within(namespace, call):
    """Calls in a thread of its own that has entered the namespace; what it returns."""
    found = []

    def enter():
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{namespace}", "rb") as door:
            if libc.setns(door.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
        found.append(call())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    expect(found, f"nothing came back from {namespace}")
    return found[0]


class Inside(Server):
    """A server in a network namespace, called over a Unix socket; in none until it is placed in one."""

    netns = None

    def spawn(self, prefix=(), env=None):
        inside = ["ip", "netns", "exec", self.netns] if self.netns else []
        super().spawn([*inside, *prefix], env)

    def http_get(self, path):
        get = super().http_get
        return within(self.netns, lambda: get(path)) if self.netns else get(path)


class Namespaces:
    """A namespace for each node, joined by veth pairs to a bridge in a namespace of its own. Nothing of it is seen outside of them."""

    def __init__(self, count):
        self.names = [f"optgate-{os.getpid()}-{i}" for i in range(count)]
        self.hub = f"optgate-{os.getpid()}-hub"
        self.made = []
        try:
            self.make()
        except BaseException as why:
            self.end()
            if isinstance(why, (Failed, OSError)):
                raise NotRun(str(why)) from None
            raise

    def make(self):
        for name in (self.hub, *self.names):
            tool("ip", "netns", "add", name)
            self.made.append(name)
        tool("ip", "-n", self.hub, "link", "add", "bridge", "type", "bridge")
        tool("ip", "-n", self.hub, "link", "set", "bridge", "up")
        for i, name in enumerate(self.names):
            ends = ["type", "veth", "peer", "name", f"port{i}", "netns", self.hub]
            tool("ip", "link", "add", "eth0", "netns", name, *ends)
            tool("ip", "-n", self.hub, "link", "set", f"port{i}", "master", "bridge", "up")
            tool("ip", "-n", name, "addr", "add", f"{self.address(i)}/24", "dev", "eth0")
            tool("ip", "-n", name, "link", "set", "lo", "up")
            tool("ip", "-n", name, "link", "set", "eth0", "up")
            tool("nft", "add table ip optgate", where=name)
            tool("nft", "add chain ip optgate heard { type filter hook input priority 0; }", where=name)

    def end(self):
        """Deletes what was made, with all that is in it."""
        for name in reversed(self.made):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=CALL_S)
        self.made.clear()

    def address(self, i):
        return f"{NETWORK}.{i + 1}"

    def place(self, i, node, anchors, is_anchor):
        """Where a node is, and whom it dials."""
        node.netns = self.names[i]
        if is_anchor:
            node.args += ["--peer-listen", f"{self.address(i)}:{PEER_PORT}"]
        for j in anchors:
            node.args += ["--peer", f"{self.address(j)}:{PEER_PORT}"]

    def placed(self, _i, _node):
        """Addresses are known beforehand."""

    def isolate(self, i):
        tool("ip", "-n", self.hub, "link", "set", f"port{i}", "down")

    def rejoin(self, i):
        tool("ip", "-n", self.hub, "link", "set", f"port{i}", "up")

    def deafen(self, i, to):
        """Nothing passes from `to` to `i` any more."""
        tool("nft", f"add rule ip optgate heard ip saddr {self.address(to)} drop", where=self.names[i])

    def undeafen(self, i, _to):
        tool("nft", "flush chain ip optgate heard", where=self.names[i])


class Proxies:
    """A TCP proxy for each pair of nodes in each direction of dialling."""

    def __init__(self, count):
        self.count = count
        self.wires = Wires()
        self.between = {}

    def end(self):
        self.wires.end()

    def place(self, i, node, anchors, is_anchor):
        if is_anchor:
            node.args += ["--peer-listen", "127.0.0.1:0"]
        for j in anchors:
            self.between[i, j] = self.wires.wire()
            node.args += ["--peer", f"127.0.0.1:{self.between[i, j].port}"]

    def placed(self, i, node):
        """The port at which it listens is known once it runs."""
        line = until("it listens for peers", lambda: said(node, '"listening for peers"'), START_S)
        for (_, to), wire in self.between.items():
            if to == i:
                self.wires.tell(wire, target=int(line["address"].rsplit(":", 1)[1]))

    def hold(self, i, to, held):
        """Nothing passes from `to` to `i`, whichever of them dialled."""
        if (to, i) in self.between:
            self.wires.tell(self.between[to, i], hold_there=held)
        if (i, to) in self.between:
            self.wires.tell(self.between[i, to], hold_back=held)

    def isolate(self, i, held=True):
        for j in range(self.count):
            if j != i:
                self.hold(i, j, held)
                self.hold(j, i, held)

    def rejoin(self, i):
        self.isolate(i, held=False)

    def deafen(self, i, to):
        self.hold(i, to, True)

    def undeafen(self, i, to):
        self.hold(i, to, False)


def network(count):
    """Of namespaces where they can be made."""
    try:
        made = Namespaces(count)
    except NotRun as why:
        print("       *** NETWORK NAMESPACES CANNOT BE MADE HERE; partitions are made by TCP PROXIES instead", flush=True)
        print(f"       *** {why}", flush=True)
        return Proxies(count)
    print("       partitions are made in network namespaces", flush=True)
    return made
