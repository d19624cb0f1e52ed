//! Running models, resident and streamed
