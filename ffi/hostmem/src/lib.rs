//! Arenas on huge pages, guest-RAM maps, core pinning.
