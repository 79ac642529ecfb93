//! Which opt-outs an opt-in may name as the ones it came after (design §5).
//!
//! Naming one asserts that the person acted after it. The command asserts that only where the times say so; anything
//! else is for the person at the keyboard to decide.

use prost_types::Timestamp;

use crate::pb::v1;

/// Whether an opt-out stands in an opt-in's way, as far as a client can tell: it does not know which topics a category
/// has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Touch {
    No,
    Perhaps,
    Surely,
}

fn touch(opt_out: &v1::OptOutRef, opt_in: &v1::OptIn) -> Touch {
    let v1::OptOutRef { event: _, time: _, channels, topics, categories } = opt_out;
    if !channels.is_empty() && !channels.iter().any(|channel| opt_in.channels.contains(channel)) {
        return Touch::No;
    }
    let is_all = topics.is_empty() && categories.is_empty();
    let same_topic = topics.iter().any(|topic| opt_in.topics.contains(topic));
    let same_category = categories.iter().any(|category| opt_in.categories.contains(category));
    if is_all || same_topic || same_category {
        return Touch::Surely;
    }
    // A topic on one side may belong to the category on the other.
    let crossed = (!topics.is_empty() && !opt_in.categories.is_empty())
        || (!categories.is_empty() && !opt_in.topics.is_empty());
    if crossed { Touch::Perhaps } else { Touch::No }
}

fn order(time: &Timestamp) -> (i64, i32) {
    (time.seconds, time.nanos)
}

/// The opt-outs to name: those in the opt-in's way whose time is not later than the opt-in's.
///
/// # Errors
/// Those that stand in its way and are later. One that only perhaps does is left out, since the server knows and refuses;
/// but naming an event may also name every earlier one of its origin, so where that could be such a later opt-out, it
/// counts as standing in the way.
pub fn choose(
    opt_outs: Vec<v1::OptOutRef>,
    opt_in: &v1::OptIn,
    occurred: Option<&Timestamp>,
) -> Result<Vec<v1::EventId>, Vec<v1::OptOutRef>> {
    // Without its time the opt-in is refused by the server, which names all that is missing.
    let Some(occurred) = occurred else { return Ok(Vec::new()) };
    let mut named: Vec<v1::EventId> = Vec::new();
    let mut later = Vec::new();
    let mut perhaps = Vec::new();
    for opt_out in opt_outs {
        let touch = touch(&opt_out, opt_in);
        let is_earlier = opt_out.time.as_ref().is_some_and(|time| order(time) <= order(occurred));
        match (touch, is_earlier) {
            (Touch::No, _) => {}
            (_, true) => named.extend(opt_out.event),
            (Touch::Surely, false) => later.push(opt_out),
            (Touch::Perhaps, false) => perhaps.push(opt_out),
        }
    }
    later.extend(perhaps.into_iter().filter(|opt_out| {
        let covered = |out: &v1::EventId| {
            named.iter().any(|name| name.origin == out.origin && name.sequence >= out.sequence)
        };
        opt_out.event.as_ref().is_none_or(covered)
    }));
    if later.is_empty() { Ok(named) } else { Err(later) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::{Category, Channel};

    fn out(
        sequence: u64,
        seconds: i64,
        channels: &[Channel],
        topics: &[&str],
        categories: &[Category],
    ) -> v1::OptOutRef {
        v1::OptOutRef {
            event: Some(v1::EventId { origin: "ab".repeat(16), sequence }),
            time: Some(Timestamp { seconds, nanos: 0 }),
            channels: channels.iter().map(|channel| (*channel).into()).collect(),
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            categories: categories.iter().map(|category| (*category).into()).collect(),
        }
    }

    fn news_by_sms() -> v1::OptIn {
        v1::OptIn { channels: vec![Channel::Sms.into()], topics: vec!["news".into()], ..Default::default() }
    }

    fn chosen(opt_outs: Vec<v1::OptOutRef>, seconds: i64) -> Result<Vec<u64>, Vec<u64>> {
        let sequences = |ids: Vec<v1::EventId>| ids.iter().map(|id| id.sequence).collect();
        let at = Timestamp { seconds, nanos: 0 };
        choose(opt_outs, &news_by_sms(), Some(&at))
            .map(sequences)
            .map_err(|later| sequences(later.into_iter().filter_map(|opt_out| opt_out.event).collect()))
    }

    #[test]
    fn earlier_opt_outs_in_the_way_are_named_and_no_others() {
        let outs = vec![
            out(1, 10, &[], &[], &[]),
            out(2, 100, &[Channel::Sms], &["news"], &[]),
            out(3, 10, &[Channel::Email], &[], &[]),
            out(4, 10, &[Channel::Sms], &["offers"], &[]),
            out(5, 10, &[], &[], &[Category::Marketing]),
        ];
        assert_eq!(chosen(outs, 100), Ok(vec![1, 2, 5]));
    }

    #[test]
    fn a_later_opt_out_stops_the_command() {
        let outs = vec![out(1, 10, &[], &[], &[]), out(2, 101, &[], &[], &[])];
        assert_eq!(chosen(outs, 100), Err(vec![2]));
    }

    #[test]
    fn a_later_one_of_another_category_is_for_the_server_to_judge() {
        assert_eq!(chosen(vec![out(1, 101, &[], &[], &[Category::Utility])], 100), Ok(vec![]));
    }

    #[test]
    fn naming_one_opt_out_never_covers_a_later_one() {
        // As imports make them: a higher number with an earlier time.
        let imported = out(9, 10, &[], &[], &[]);
        let of_utility = |sequence| out(sequence, 101, &[], &[], &[Category::Utility]);
        assert_eq!(chosen(vec![imported.clone(), of_utility(5)], 100), Err(vec![5]));
        assert_eq!(chosen(vec![imported, of_utility(10)], 100), Ok(vec![9]));
    }

    #[test]
    fn fractions_of_a_second_count_and_a_missing_time_names_nothing() {
        let mut late = out(1, 100, &[], &[], &[]);
        late.time = Some(Timestamp { seconds: 100, nanos: 1 });
        assert_eq!(chosen(vec![late], 100), Err(vec![1]));
        assert_eq!(choose(vec![out(1, 10, &[], &[], &[])], &news_by_sms(), None), Ok(vec![]));
    }
}
