//! Delivering: claim → map → plan → send → judge → settle. The engine decides, this does.

pub mod alone;
pub mod claim;
pub mod flight;
pub mod flown;
pub mod gone;
pub mod judged;
pub mod leases;
pub mod newest;
pub mod offer;
pub mod prepare;
pub mod said;
pub mod settle;
pub mod shell;
pub mod sign;
pub mod spread;
pub mod stands;
pub mod start;
pub mod wait;
