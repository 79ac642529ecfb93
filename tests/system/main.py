"""Runs the system tests, all or those whose names are given in part.

run                                       all of them
run NAME...                               those whose names contain a NAME
run --list                                their names
run --crash [--cycles N] [--seed S]       kills and restarts one server
run --peers-chaos [--seconds N] [--seed S]  kills, freezes and cuts off three anchors and two edges
"""

import sys

import harness
import story  # noqa: F401 - each module registers its tests
import bad_input  # noqa: F401
import import_file  # noqa: F401
import faults  # noqa: F401
import canaries  # noqa: F401
import peers  # noqa: F401
import peers_stores  # noqa: F401
import peers_views  # noqa: F401
import peers_behind  # noqa: F401
import peers_partitions  # noqa: F401
import edges  # noqa: F401
import peers_usage  # noqa: F401
import crash
import peers_chaos

if __name__ == "__main__":
    wanted = sys.argv[1:]
    if wanted in (["--help"], ["-h"]):
        print(__doc__)
        sys.exit(0)
    if wanted[:1] == ["--crash"]:
        sys.exit(crash.main(wanted[1:]))
    if wanted[:1] == ["--peers-chaos"]:
        sys.exit(peers_chaos.main(wanted[1:]))
    if wanted == ["--list"]:
        print("\n".join(t.__name__.removeprefix("test_") for t in harness.TESTS))
        sys.exit(0)
    sys.exit(harness.run(wanted))
