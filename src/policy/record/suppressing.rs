//! What of a record denies.

use super::{Links, Record};
use crate::policy::consent::Cell;

impl Record {
    /// What of it denies, and nothing that permits: opt-outs and invalidations, holds and stopped preferences. Whoever's word it is, it may be
    /// believed until the events themselves are at hand.
    ///
    /// What is linked is followed as another written form is: by it opt-outs reach the identifier, and no opt-in does.
    #[must_use]
    pub fn suppressing(self) -> Self {
        let Self { cells, mut preferences, mut holds, links, allowances: _, taken: _, set_aside: _ } = self;
        let cells = cells.into_iter().map(|(scope, cell)| {
            let Cell { outs, imported_outs, voids, opt_ins: _, requests: _ } = cell;
            (scope, Cell { outs, imported_outs, voids, ..Cell::default() })
        });
        let cells = cells.filter(|(_, cell)| *cell != Cell::default()).collect();
        preferences.retain(|(_, register)| register.suppresses);
        holds.retain(|(_, register)| register.suppresses);
        let mut forms: Vec<_> = links.all().copied().collect();
        forms.sort_unstable();
        forms.dedup();
        let links = Links { identifiers: Vec::new(), forms };
        Self { cells, preferences, holds, links, ..Self::default() }
    }

    /// Whether nothing of it denies, but for what it is linked to.
    #[must_use]
    pub fn suppresses_nothing(&self) -> bool {
        let Self { cells, preferences, holds, .. } = self;
        cells
            .iter()
            .all(|(_, cell)| cell.outs.is_empty() && cell.imported_outs.is_empty() && cell.voids.is_empty())
            && !preferences.iter().any(|(_, register)| register.suppresses)
            && !holds.iter().any(|(_, register)| register.suppresses)
    }
}
