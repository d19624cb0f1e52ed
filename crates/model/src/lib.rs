//! The vocabulary of brevity: the model tree, weights as expressions, sites, descriptions
