//! The join of two nodes' usage: order and repetition do not matter.
//!
//! Below the bounds it is commutative, associative and idempotent: every list is a set whose members only ever grow, and what
//! was undone hides its member for good. At a bound the oldest goes, which forgets that something was sent or heard.

use super::{SPENT_MAX, Spent, UNDONE_MAX, Usage, WINDOWS_MAX, Window};
use crate::policy::ids::{EventId, SenderId};
use crate::policy::time::Timestamp;
use crate::policy::types::Channel;

impl Usage {
    /// Takes over what `other` knows and this does not; `true`: something. The last message allowed stays this node's own: a
    /// bare YES answers the last question only where nothing was sent since, which only the sending node knows for sure.
    pub fn merge(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for closed in &other.undone.closed {
            changed |= self.merge_closed(closed);
        }
        for (channel, at) in &other.undone.owed {
            changed |= self.merge_owed(*channel, *at);
        }
        for failed in &other.undone.failed {
            changed |= self.merge_failed(*failed);
        }
        for window in &other.windows {
            changed |= self.merge_window(window);
        }
        for (channel, at) in &other.instructed {
            changed |= self.merge_instructed(*channel, *at);
        }
        for spent in &other.spent {
            changed |= self.merge_spent(spent);
        }
        changed
    }

    pub(super) fn merge_window(&mut self, other: &Window) -> bool {
        let closed = self.closed(other.channel, &other.sender);
        if closed.is_some_and(|closed| other.last <= closed) {
            return false;
        }
        let reopened = other.reopened.filter(|at| closed.is_none_or(|closed| *at > closed));
        let same = |window: &&mut Window| window.channel == other.channel && window.sender == other.sender;
        if let Some(window) = self.windows.iter_mut().find(same) {
            let before = (window.last, window.reopened);
            window.last = window.last.max(other.last);
            window.reopened = window.reopened.max(reopened);
            return before != (window.last, window.reopened);
        }
        self.windows.push(Window { reopened, ..other.clone() });
        drop_oldest(&mut self.windows, WINDOWS_MAX, |window| {
            (window.last, window.channel.word(), window.sender.clone())
        })
    }

    pub(super) fn merge_closed(&mut self, (channel, sender, at): &(Channel, SenderId, Timestamp)) -> bool {
        if self.closed(*channel, sender).is_some_and(|known| *at <= known) {
            return false;
        }
        let closed = &mut self.undone.closed;
        closed.retain(|(known, of, _)| known != channel || of != sender);
        closed.push((*channel, sender.clone(), *at));
        drop_oldest(closed, UNDONE_MAX, |(channel, sender, at)| (*at, channel.word(), sender.clone()));
        self.windows.retain_mut(|window| {
            if window.channel != *channel || &window.sender != sender {
                return true;
            }
            window.reopened = window.reopened.filter(|reopened| reopened > at);
            window.last > *at
        });
        true
    }

    fn closed(&self, channel: Channel, sender: &SenderId) -> Option<Timestamp> {
        let mut closed = self.undone.closed.iter();
        closed.find(|(known, of, _)| *known == channel && of == sender).map(|(_, _, at)| *at)
    }

    pub(super) fn merge_instructed(&mut self, channel: Channel, at: Timestamp) -> bool {
        let owed = self.undone.owed.iter().find(|(known, _)| *known == channel);
        if owed.is_some_and(|(_, owed)| at <= *owed) {
            return false;
        }
        raise(&mut self.instructed, channel, at)
    }

    pub(super) fn merge_owed(&mut self, channel: Channel, at: Timestamp) -> bool {
        self.instructed.retain(|(known, met)| *known != channel || *met > at);
        raise(&mut self.undone.owed, channel, at)
    }

    pub(super) fn merge_spent(&mut self, other: &Spent) -> bool {
        if self.undone.failed.contains(&(other.event, other.time)) {
            return false;
        }
        let same = |spent: &&mut Spent| {
            (spent.event, spent.channel, spent.time) == (other.event, other.channel, other.time)
        };
        if let Some(spent) = self.spent.iter_mut().find(same) {
            let before = spent.message;
            spent.message = before.max(other.message);
            return spent.message != before;
        }
        self.spent.push(*other);
        drop_oldest(&mut self.spent, SPENT_MAX, |spent| (spent.time, spent.event, spent.channel))
    }

    pub(super) fn merge_failed(&mut self, failed: (EventId, Timestamp)) -> bool {
        if self.undone.failed.contains(&failed) {
            return false;
        }
        self.spent.retain(|spent| (spent.event, spent.time) != failed);
        self.undone.failed.push(failed);
        drop_oldest(&mut self.undone.failed, UNDONE_MAX, |(event, at)| (*at, *event))
    }
}

/// Keeps the later time of `channel`; `false`: it is kept already.
fn raise(times: &mut Vec<(Channel, Timestamp)>, channel: Channel, at: Timestamp) -> bool {
    match times.iter_mut().find(|(known, _)| *known == channel) {
        Some((_, time)) if *time >= at => return false,
        Some((_, time)) => *time = at,
        None => times.push((channel, at)),
    }
    true
}

/// Drops the least by `key` where the item pushed last is one too many; `false`: it was that one.
fn drop_oldest<T, K: Ord>(items: &mut Vec<T>, max: usize, key: impl Fn(&T) -> K) -> bool {
    if items.len() <= max {
        return true;
    }
    let oldest = (0..items.len()).min_by_key(|at| key(&items[*at]));
    let newest = items.len() - 1;
    oldest.is_some_and(|at| {
        items.swap_remove(at);
        at != newest
    })
}

#[cfg(test)]
mod tests;
