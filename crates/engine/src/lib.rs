//! The loop: recipe, plan, stream of stages, journal
