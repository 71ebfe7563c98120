//! What is added to a pod: a pure function.
