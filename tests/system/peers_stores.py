"""Relays, nodes that do not belong together, and stores that were restored or copied."""

import shutil
import threading

from cluster import *  # noqa: F403
from peers import ANNA, BEN, Writer, all_kept, nothing_lost, person, record_replicated
from story import trail


@test
def test_peers_chain(scene):
    """A and C know only B, so everything between them goes through it."""
    cluster = Cluster(scene, knows=[[1], [], [1]], opt_out_wait="20ms").start()
    first, middle, last = cluster.nodes
    put_templates(first.client())
    agree(first.client(), ANNA)
    agree(last.client(), BEN)
    until_answered(last.client(), ANNA, UPDATE, "ALLOW", "on C after the opt-in on A")
    until_answered(first.client(), BEN, UPDATE, "ALLOW", "on A after the opt-in on C")
    equal([len(status(node).replication.peers) for node in cluster.nodes], [1, 2, 1], "peers of A, B and C")

    writers = [Writer(first.client(), 0), Writer(last.client(), 1_000_000)]
    try:
        for end in (middle.kill, middle.stop):
            for writer in writers:
                writer.wrote(40)
            end()
            for writer in writers:
                writer.wrote(40)
            middle.start()
    finally:
        for writer in writers:
            writer.stop()
    record(first.client(), ANNA, opt_out())
    until_answered(last.client(), ANNA, UPDATE, "OPTED_OUT", "on C after STOP on A, by way of B")
    print(f"       {all_kept(cluster, writers)} events, B restarted twice", flush=True)


@test
def test_peers_that_do_not_match(scene):
    do_not_match(scene, both_are_told=False)


@test
def test_peers_mismatch_is_told_to_both(scene):
    do_not_match(scene, both_are_told=True)


def do_not_match(scene, both_are_told):
    cluster = Cluster(scene, count=1).start()
    home = cluster.nodes[0]
    put_templates(home.client())
    own = heads(home)
    other_key = scene.folder / "other.key"
    run_optgate("key", "new", str(other_key))
    cases = (
        ("key", other_key, cluster.config, "different cluster keys"),
        ("name", cluster.key, cluster.config.replace("anchors:", "cluster_id: elsewhere, anchors:"), "`elsewhere`"),
    )
    for name, key, config, words in cases:
        stranger = scene.server(config, name)
        use_peers(stranger, key, free_port(), cluster.ports)
        stranger.spawn()
        reach(stranger)
        # Who is dialled says hello first, so it is the stranger that refuses.
        until(f"another {name} is refused", lambda: said(stranger, "ERROR", "a peer is refused", words))
        if both_are_told:
            until(f"the other side of another {name}", lambda: said(home, "ERROR", "a peer refuses this node", words))
        record(stranger.client(), ANNA, opt_out())
        equal(heads(home), own, f"nothing came from a node with another {name}")
        expect(not status(home).replication.peers, "nobody is connected")
        expect(words in status(stranger).replication.last_error, "the status says why")
        for node in (home, stranger):
            expect("+4915" not in node.log.read_text(), "no address in the log")
        stranger.kill()


@test
def test_peers_in_plain_text(scene):
    key = scene.folder / "cluster.key"
    run_optgate("key", "new", str(key))
    for name, args in (
        ("listens", ["--peer-listen", "0.0.0.0:0"]),
        ("dials", ["--peer-listen", "127.0.0.1:0", "--peer", "192.0.2.1:50052"]),
    ):
        node = scene.server(PEERS_CONFIG, name)
        node.args = ["--key-file", str(key), *args]
        node.spawn()
        code = node.process.wait(START_S)
        node.process = None
        equal(code, 64, f"exit code of a node that {name} beyond this machine:\n{node.tail()}")
        expect("without encryption" in node.tail(), f"it says why:\n{node.tail()}")
    node = scene.server(PEERS_CONFIG + replication({"allow_plaintext": "true", "bootstrap_budget": "1s"}), "allowed")
    node.args = ["--key-file", str(key), "--peer-listen", "127.0.0.1:0", "--peer", "192.0.2.1:50052"]
    node.start()
    equal(node.stop(), 0, "exit code")


@test
def test_peers_that_name_themselves(scene):
    """The same list of peers for all, as one DNS name gives it."""
    name_themselves(scene)


@test
def test_peers_naming_themselves_is_no_fault(scene):
    for node in name_themselves(scene).nodes:
        expect(not said(node, '"ERROR"'), f"nothing to complain of: {said(node, 'ERROR')}")
        expect(not status(node).replication.last_error, f"nothing went wrong: {status(node).replication}")


def name_themselves(scene):
    cluster = Cluster(scene, knows=[[0, 1, 2]] * 3).start()
    a, b, c = cluster.clients()
    put_templates(a)
    agree(a, ANNA)
    for client in (b, c):
        until_answered(client, ANNA, UPDATE, "ALLOW", "after the opt-in on A")
    record_replicated(c, ANNA, opt_out())
    for client in (a, b):
        until_answered(client, ANNA, UPDATE, "OPTED_OUT", "after STOP on C")
    for node in cluster.nodes:
        equal(len(status(node).replication.peers), 2, "peers")
    return cluster


@test
def test_peers_restored_backup(scene):
    cluster = Cluster(scene).start()
    first, second, third = cluster.nodes
    put_templates(first.client())
    people = [person(i) for i in range(40)]
    for who in people:
        agree(first.client(), who)
    cluster.converged()
    equal(first.stop(), 0, "exit code")
    backup = first.folder / "backup"
    shutil.copytree(first.data, backup)

    first.start()
    cluster.together()
    a = first.client()
    after = {}
    for who in people[:20]:
        after |= {(e.origin, e.sequence): who for e in record_replicated(a, who, opt_out()).events}
    newcomer = person(99)
    after |= {(e.origin, e.sequence): newcomer for e in record_replicated(a, newcomer, opt_in(topics=EVERY_TOPIC)).events}
    known = set(cluster.converged())
    first.kill()

    shutil.rmtree(first.data)
    shutil.copytree(backup, first.data)
    first.spawn()
    reach(first)
    a = first.client()
    asked, seen = 0, set()
    while first.http_status("/readyz") != 200 or asked < 100:
        for who in people[:20]:
            answer = check(a, who, UPDATE, mode=PEEK)
            expect(answer.decision == DENY, "ALLOW for who opted out after the backup")
            seen.add(reason_of(answer))
            asked += 1
    for who in people[:20]:
        denied(check(a, who, UPDATE, mode=PEEK), "OPTED_OUT", "opted out after the backup")
    for who in [*people[20:], newcomer]:
        until_answered(a, who, UPDATE, "ALLOW", "opted in")
    lasting = cluster.converged()
    for node in (second, third):
        expect(said(node, "holds less than it once did"), f"{node.folder.name} notices that a went back")
    expect(known <= set(lasting), "every origin is there")
    nothing_lost(cluster.nodes, after)
    fresh = record(a, ANNA, opt_out()).events[0]
    expect(fresh.origin not in known, "the restored node writes as an origin of its own")
    cluster.converged()
    verified(cluster.nodes)
    for node in cluster.nodes:
        expect(not said(node, "two hashes"), "no fork")
        expect(not status(node).distrusted_origins, "no origin is forked")
    print(f"       {asked} checks of opted-out people while it came back, answered {sorted(seen)}", flush=True)


@test
def test_peers_copied_store(scene):
    cluster = Cluster(scene, opt_out_wait="20ms").start()
    first = cluster.nodes[0]
    put_templates(first.client())
    people = [person(i) for i in range(40)]
    for who in people:
        agree(first.client(), who)
    cluster.converged()
    copy = scene.server(cluster.config, "copy")
    use_peers(copy, cluster.key, free_port(), cluster.ports)
    writer = Writer(first.client(), 1_000_000)
    try:
        writer.wrote(20)
        shutil.copytree(first.data, copy.data)
        writer.wrote(20)
        copy.start()
        connected(copy, 3)
        for i, who in enumerate(people[:20]):
            record((first, copy)[i % 2].client(), who, opt_out())
        writer.wrote(20)
    finally:
        writer.stop()
    nodes = [*cluster.nodes, copy]
    converged(nodes)
    nothing_lost(nodes, writer.acknowledged)
    for node in nodes:
        client = node.client()
        for i, who in enumerate(people):
            wanted = "OPTED_OUT" if i < 20 else "ALLOW"
            equal(reason_of(check(client, who, UPDATE, mode=PEEK)), wanted, f"person {i} on {node.folder.name}")
        expect(not said(node, "two hashes"), f"no fork on {node.folder.name}")
        expect(not status(node).distrusted_origins, f"no origin is forked on {node.folder.name}")
    origins = [{e.event.origin for who in people[i:20:2] for e in trail(client, who)[1:]} for i in (0, 1)]
    expect(not origins[0] & origins[1], "the copy writes as an origin of its own")
    until("the nodes say that a store was copied", lambda: said(first, "copies of one data directory"))
    verified(nodes)
