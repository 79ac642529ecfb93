//! What a clear opt-out ends: one scope for each thing that its clauses name, so that what one names narrows no other.

use crate::policy::types::Channel;

/// One thing that a clear opt-out ends. With nothing named: everything on the channel it came by, or as `stop_scope` is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopScope {
    /// Channels named (`STOP WHATSAPP`), sorted; empty: none named. They are meant instead of the one it came by.
    pub channels: Vec<Channel>,
    /// Every channel: `STOP ALL`, `do not contact me again`.
    pub all_channels: bool,
    /// The category named.
    pub category: StopCategory,
    /// Ids of topics named, sorted. With a category they are ended besides it.
    pub topics: Vec<String>,
}

/// The category that an opt-out names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StopCategory {
    /// None: all of them, unless topics are named.
    #[default]
    Unspecified,
    /// `STOP PROMOTIONS`.
    Marketing,
}

impl StopScope {
    /// Whether nothing is named: a bare STOP.
    #[must_use]
    pub fn is_everything_here(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it ends all kinds of messages wherever it reaches.
    #[must_use]
    pub fn is_every_kind(&self) -> bool {
        self.category == StopCategory::Unspecified && self.topics.is_empty()
    }

    fn reaches_where(&self, other: &Self) -> bool {
        let within = |channel| self.channels.contains(channel);
        let none_named = [self, other].map(|scope| scope.channels.is_empty());
        self.all_channels
            || !other.all_channels && none_named[0] == none_named[1] && other.channels.iter().all(within)
    }

    fn ends_what(&self, other: &Self) -> bool {
        self.is_every_kind() || self.category == other.category && self.topics == other.topics
    }

    /// Takes `other` in, where one scope says both without ending less or more.
    fn take(&mut self, other: &Self) -> bool {
        if self.reaches_where(other) && self.ends_what(other) {
            return true;
        }
        if other.reaches_where(self) && other.ends_what(self) {
            self.clone_from(other);
            return true;
        }
        let alike = (self.category, &self.topics) == (other.category, &other.topics);
        let names_where = |scope: &Self| !(scope.all_channels || scope.channels.is_empty());
        if alike && names_where(self) && names_where(other) {
            self.channels.extend(&other.channels);
        } else if self.all_channels == other.all_channels && self.channels == other.channels {
            // Neither ends every kind there, else one had taken the other in.
            if other.category == StopCategory::Marketing {
                self.category = StopCategory::Marketing;
            }
            self.topics.extend(other.topics.iter().cloned());
        } else {
            return false;
        }
        self.sort();
        true
    }

    fn sort(&mut self) {
        self.channels.sort_unstable();
        self.channels.dedup();
        self.topics.sort_unstable();
        self.topics.dedup();
    }
}

/// All that the clauses of one message name, in as few scopes as say the same.
pub(super) fn joined(clauses: Vec<StopScope>) -> Vec<StopScope> {
    let mut joined: Vec<StopScope> = Vec::new();
    for mut scope in clauses {
        scope.sort();
        // What takes it in may be taken in by another in turn.
        while let Some(at) = joined.iter_mut().position(|known| known.take(&scope)) {
            scope = joined.swap_remove(at);
        }
        joined.push(scope);
    }
    joined
}
