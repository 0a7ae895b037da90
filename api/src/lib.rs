//! The HTTP service: answers for clients of the original service, documents, probes and numbers for operators.
//!
//! Files in the order in which a request meets them. The service reads what the jobs share (`jobs::active`, `feed`,
//! `status`, `metrics`, `alerts`, `control`, `keys`, `tables`, `rows`), scores with the active model and gives events to
//! `jobs::ingest`; it never opens a log, a table or a database, never prints, and every error it answers with is an RFC
//! 9457 problem.

mod protection;

mod server;
mod socket;
mod tls;

mod document;
mod identity;
mod observe;
mod paths;
mod problem;
mod target;

mod readiness;
mod routes;

mod asker;
mod gate;
mod meter;
mod site;

mod answers;
mod negotiation;
mod parameters;
mod posted;
mod predict;

mod alerts;
mod events;
mod life;

mod rows;

mod predictions;
mod sql;
mod tables;

mod stream;

mod dashboard;

mod error;

pub use error::Error;
pub use protection::{Limits, Protection, Rate};
pub use routes::Service;
pub use server::{SHUTDOWN_LIMIT, serve};
pub use tls::Tls;
