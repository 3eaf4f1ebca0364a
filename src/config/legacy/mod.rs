//! Configurations of other servers, read as if they were written for this one.

pub(super) mod gusher;
