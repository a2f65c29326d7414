//! The model runs inside the worker.
