//! A whole system in virtual time, from one seed: nodes that each run the real engine on a simulated disk, joined by the real
//! replication machine. Persons act in a true order that only the judge knows.
//!
//! ```text
//! fate ─▶ people: acts, reports, retries ─▶ Engine ─▶ ledger on a disk that tears, view in memory
//!   └───▶ crashes, cuts, clocks              ▲ │
//!                                     peers::hands, ▼ peers::knowing
//!         net: frames, calls of edges ◀──▶ Machine          judge: what may be answered, what must be there in the end
//! ```
//!
//! Nothing has a thread, a clock or randomness of its own, so that a seed means the same for ever: each step ends before time
//! moves. What waits for others (a caller, an edge) waits in virtual time, outside of the engine.
//!
//! `OPTGATE_SIM_SEEDS=10000` runs that many seeds; `OPTGATE_SIM_SEED=17` runs that one, which is what a failing seed asks for.

mod behind;
mod call;
mod drive;
mod edge;
mod fate;
mod hand;
mod judge;
mod net;
mod node;
mod people;
mod scenes;
mod seeds;
mod world;
