//! Each rule of State, with the nearest thing that is refused.

mod append;
mod control;
mod fixture;
mod images;
mod order;
mod producers;
mod shipping;
