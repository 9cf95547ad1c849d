//! Groups at full size: one eviction, every member and every evicted one really tried; and small groups through many
//! epochs of loss, sleep, joins and coalitions.

mod coalition;
mod epochs;
mod evidence;
mod fleet;

pub use coalition::{Coalition, hierarchy_opens};
pub use epochs::{EpochsReport, run_epochs};
pub use evidence::Evidence;
pub use fleet::{FleetError, FleetPlan, FleetReport, Pattern, run_fleet};
