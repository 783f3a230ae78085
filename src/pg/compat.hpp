// The one place that includes the server's main header, and the only one that knows server versions.
// Every source of src/pg that talks to the server includes this first; std-only sources (errors.hpp, pure/,
// crypto/) never do. Supported servers: 14 to 18; the tests run on 15.
#pragma once

// Before 16 the server's export marker is empty, and with hidden visibility nothing would be exported.
#ifndef PGDLLEXPORT
#define PGDLLEXPORT __attribute__((visibility("default")))
#endif

extern "C" {
#include "postgres.h"

#include "fmgr.h"
#include "utils/memutils.h"
}

// The server redirects the printf family to its own; std::snprintf must stay usable after this header.
#undef snprintf
#undef vsnprintf
#undef sprintf
#undef vsprintf
#undef printf
#undef vprintf
#undef fprintf
#undef vfprintf
#undef strerror
#undef strerror_r
#undef gettext
#undef dgettext
#undef ngettext
#undef dngettext

#if PG_VERSION_NUM < 140000
#error "pgtrain needs PostgreSQL 14 or later"
#endif

namespace pgtrain::pg::compat {

// Shared memory may be asked for in a hook from 15 on; in 14 it is asked for in _PG_init itself.
#if PG_VERSION_NUM >= 150000
inline constexpr bool has_shmem_request_hook = true;
#else
inline constexpr bool has_shmem_request_hook = false;
#endif

}  // namespace pgtrain::pg::compat
