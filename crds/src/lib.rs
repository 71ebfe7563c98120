//! The kinds of `pyramid.dev/v1alpha1`.
