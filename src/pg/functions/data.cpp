// Data, the parts that are not SQL: checking samples that are texts, and the chain hash. Records are checked in records.cpp.
#include "pg/compat.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
}

#include <string>
#include <string_view>

#include "pg/boundary/arguments.hpp"
#include "pg/boundary/function.hpp"
#include "pg/call/spi.hpp"
#include "pg/crypto/digest.hpp"
#include "pg/errors.hpp"

namespace call = pgtrain::pg::call;
namespace crypto = pgtrain::pg::crypto;
namespace code = pgtrain::pg::code;
using pgtrain::pg::Error;
using pgtrain::pg::boundary::bytes_of;

namespace {

struct Elements {
  Datum *values;
  bool *nulls;
  int count;
};

Elements elements_of(ArrayType *array, Oid type) {
  Elements elements{};
  deconstruct_array(array, type, -1, false, TYPALIGN_INT, &elements.values, &elements.nulls, &elements.count);
  return elements;
}

[[noreturn]] void refuse_sample(int64 ordinal, const char *why, const char *hint) {
  throw Error(code::InvalidData, "sample " + std::to_string(ordinal) + " is not acceptable", why, hint);
}

}  // namespace

// check_samples(samples, first_ordinal)
PGTRAIN_FUNCTION(pgtrain_check_samples) {
  if (PG_ARGISNULL(0)) PG_RETURN_VOID();
  const int64 first = PG_ARGISNULL(1) ? 1 : PG_GETARG_INT64(1);
  const Elements samples = elements_of(PG_GETARG_ARRAYTYPE_P(0), TEXTOID);
  const bool is_utf8_already = GetDatabaseEncoding() != PG_UTF8 && GetDatabaseEncoding() != PG_SQL_ASCII;
  for (int i = 0; i < samples.count; ++i) {
    const int64 ordinal = first + i;
    if (samples.nulls[i]) refuse_sample(ordinal, "It is null.", "Leave nulls out.");
    const std::string_view text = bytes_of(PG_DETOAST_DATUM_PACKED(samples.values[i]));
    if (text.empty()) refuse_sample(ordinal, "It is empty.", "Leave empty samples out.");
    // Other encodings are converted by the server when they are stored, which fails there if it must.
    if (!is_utf8_already && !pg_verify_mbstr(PG_UTF8, text.data(), static_cast<int>(text.size()), true))
      refuse_sample(ordinal, "It is not valid UTF-8.", "Convert the text to UTF-8 first.");
  }
  PG_RETURN_VOID();
}

// chain_hash(start, hashes)
PGTRAIN_FUNCTION(pgtrain_chain_hash) {
  const struct varlena *start = PG_GETARG_BYTEA_PP(0);
  const Elements hashes = elements_of(PG_GETARG_ARRAYTYPE_P(1), BYTEAOID);
  if (hashes.count == 0) PG_RETURN_BYTEA_P(start);
  crypto::Digest chain{};
  std::string_view before = bytes_of(start);
  for (int i = 0; i < hashes.count; ++i) {
    if (hashes.nulls[i]) throw Error(code::NullNotAllowed, "a hash of the chain is null");
    chain = crypto::sha256(before, bytes_of(PG_DETOAST_DATUM_PACKED(hashes.values[i])));
    before = {reinterpret_cast<const char *>(chain.data()), chain.size()};
  }
  PG_RETURN_BYTEA_P(cstring_to_text_with_len(before.data(), static_cast<int>(before.size())));
}
