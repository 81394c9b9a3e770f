//! What Oxilium costs, against doing without, measured in one run on one machine.
//!
//! Everything that can be a ratio is one: both sides are measured in turns, so that what else the machine does meets
//! both. Goals are printed beside the figures and never enforced.

pub mod change;
pub mod cluster;
pub mod cni;
pub mod empty;
pub mod figures;
pub mod packet;
pub mod report;
pub mod scale;
pub mod traffic;
