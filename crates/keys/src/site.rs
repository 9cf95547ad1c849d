//! Sites and their epochs: who serves, and which counters and version numbers are whose.
//!
//! Site `i` of `S` uses epochs with `E mod S = i`, and gives key versions numbers with the same residue. So two sites that
//! both believe to serve use different counters and name different keys, and what they did can be joined later.
//!
//! # Source
//! Key service specification, sections 8 and 18.

use gridseal_types::{SystemTitle, UtcTime, service::keys::SiteMode};

/// Most sites of one service.
pub const SITES_MAX: u8 = 8;
/// Site epochs after the creation of a key from which on it should be replaced.
pub const EPOCHS_ROTATE: u32 = 200;

/// What a site is configured to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    /// Index, below `count`.
    pub index: u8,
    /// Number of sites, 1 to [`SITES_MAX`].
    pub count: u8,
    /// System title under which this service seals for head-ends of this site.
    pub client_title: SystemTitle,
    /// Epoch in the marker outside the database, `None` where there is none: a copy that has lost it is promoted above the
    /// highest epoch that a witness has seen. Whoever notices that an old database was put
    /// back raises the marker by one first: the site then serves no more until it is restored.
    pub marker: Option<u32>,
    /// Standby that acknowledges commits.
    pub standby: Standby,
}

impl Site {
    /// Its place among the sites, as one bit.
    #[must_use]
    pub const fn bit(&self) -> u8 {
        1 << (self.index % SITES_MAX)
    }

    /// The only site, without a standby.
    #[must_use]
    pub const fn single(client_title: SystemTitle) -> Self {
        Self { index: 0, count: 1, client_title, marker: None, standby: Standby::Single }
    }
}

/// Whether a commit can be acknowledged by a second copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standby {
    /// The operator runs this site alone, and says so.
    Single,
    /// A standby acknowledges.
    Reachable,
    /// There should be one, and it does not answer.
    Lost,
}

/// What is on record of the site that wrote this database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct SiteRow {
    /// Epoch of the site that serves from this database.
    #[n(0)]
    pub epoch: u32,
    /// Highest epoch it has seen, its own included.
    #[n(1)]
    pub highest: u32,
    /// Whether it was fenced.
    #[n(2)]
    pub fenced: bool,
    /// Until when key changes may go without a standby.
    #[n(3)]
    pub degraded_until: UtcTime,
    /// Number of the next slot of the traffic table.
    #[n(4)]
    pub slots: u32,
}

/// The smallest value above `above` with the residue of site `index` of `count`; `None` past the end.
#[must_use]
pub const fn next_of_site(above: u32, index: u8, count: u8) -> Option<u32> {
    let count = if count == 0 { 1 } else { count as u32 };
    let index = index as u32 % count;
    let Some(first) = above.checked_add(1) else { return None };
    let step = (index + count - first % count) % count;
    first.checked_add(step)
}

/// The mode of a site that finds this row, being who it is and having this marker. Without a marker it cannot tell whether
/// its database is the newest.
#[must_use]
pub const fn mode_of(row: &SiteRow, site: &Site) -> SiteMode {
    if row.fenced || row.highest > row.epoch {
        return SiteMode::Fenced;
    }
    if row.epoch % (site.count as u32) != site.index as u32 {
        return SiteMode::Standby;
    }
    match site.marker {
        Some(marker) if marker <= row.epoch => SiteMode::Active,
        _ => SiteMode::Outdated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_of_two_sites_never_meet_and_always_rise() {
        for count in 1..=SITES_MAX {
            for above in 0..40 {
                let next: alloc::vec::Vec<u32> =
                    (0..count).map(|index| next_of_site(above, index, count).unwrap()).collect();
                for (index, epoch) in (0..).zip(&next) {
                    assert!(*epoch > above && *epoch <= above + u32::from(count));
                    assert_eq!(epoch % u32::from(count), index);
                }
            }
        }
        assert_eq!(next_of_site(10, 1, 2), Some(11));
        assert_eq!(next_of_site(11, 0, 2), Some(12));
        assert_eq!(next_of_site(u32::MAX, 0, 1), None);
        assert_eq!(next_of_site(u32::MAX - 1, 0, 2), None, "the last number is odd");
    }

    #[test]
    fn a_database_of_another_site_a_fenced_one_or_an_older_one_does_not_serve() {
        let row = SiteRow { epoch: 4, highest: 4, fenced: false, degraded_until: UtcTime(0), slots: 0 };
        let site = Site { count: 2, ..Site::single(SystemTitle([0; 8])) };
        assert_eq!(mode_of(&row, &site), SiteMode::Outdated, "its marker was lost");
        assert_eq!(mode_of(&row, &Site { marker: Some(4), ..site }), SiteMode::Active);
        assert_eq!(mode_of(&row, &Site { marker: Some(6), ..site }), SiteMode::Outdated);
        assert_eq!(mode_of(&row, &Site { index: 1, ..site }), SiteMode::Standby);
        assert_eq!(mode_of(&SiteRow { fenced: true, ..row }, &site), SiteMode::Fenced);
        assert_eq!(mode_of(&SiteRow { highest: 5, ..row }, &site), SiteMode::Fenced);
    }
}
