//! Reading chunks through URLs and from the store.
