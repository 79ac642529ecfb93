//! Checks that are judged together.

use super::*;

/// An opt-out comes between two checks of a batch. Whoever asks another node for what the second has seen must not be told of less.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_check_of_a_batch_has_seen_is_in_its_token() {
    let node = Node::open(Replica::alone());
    node.opts_in().await;
    let asks = [1, 2].map(|_| Node::asks(person(), "", Mode::Peek));
    let runtime = tokio::runtime::Handle::current();
    let mut answers = Vec::new();
    let each = |answer: CheckAnswer| {
        if answers.is_empty() {
            let opts_out = node.opts_out(NOON.plus_ms(MINUTE_MS), Source::Caller);
            tokio::task::block_in_place(|| runtime.block_on(opts_out));
        }
        answers.push((answer.allows(), answer.as_of));
    };
    node.engine.check_each(&asks, each).unwrap();
    let [(true, before), (false, behind)] = answers.as_slice() else { panic!("{answers:?}") };
    assert_ne!(before, behind);
    assert_eq!(*behind, node.engine.as_of());
}
