// Arguments of SQL-callable functions as views on the server's memory. Valid until the function returns; may raise a server error
// (detoasting), so take them before anything with a destructor is alive.
#pragma once

#include <string_view>

#include "pg/compat.hpp"

namespace pgtrain::pg::boundary {

// The bytes of a detoasted text or bytea.
inline std::string_view bytes_of(const struct varlena *value) {
  return {VARDATA_ANY(value), static_cast<size_t>(VARSIZE_ANY_EXHDR(value))};
}

inline std::string_view text_argument(FunctionCallInfo fcinfo, int index) { return bytes_of(PG_GETARG_TEXT_PP(index)); }

}  // namespace pgtrain::pg::boundary
