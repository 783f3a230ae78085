// See frozen_config.hpp.
#include "pg/submit/frozen_config.hpp"

extern "C" {
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
}

#include "pg/call/guard.hpp"
#include "pg/crypto/digest.hpp"
#include "pg/errors.hpp"
#include "pg/worker/relay.hpp"
#include "protocol/run_config.hpp"

namespace pgtrain::pg::submit {
namespace {

struct PlainPair {
  const char *key;
  int key_length;
  const char *value;
  int value_length;
};

constexpr int most_fields = 256;

// Server world. The texts of an array of texts, apart by commas; null when it holds something else.
char *join_texts(JsonbContainer *array) {
  StringInfoData joined;
  initStringInfo(&joined);
  JsonbIterator *iterator = JsonbIteratorInit(array);
  JsonbValue value;
  for (JsonbIteratorToken token; (token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE;) {
    if (token != WJB_ELEM) continue;
    if (value.type != jbvString) return nullptr;
    if (joined.len > 0) appendStringInfoChar(&joined, ',');
    appendBinaryStringInfo(&joined, value.val.string.val, value.val.string.len);
  }
  return joined.data;
}

// Server world. Takes an object of plain values and lists of texts apart; the name of a value that is neither comes back.
int read_pairs(Jsonb *object, PlainPair *pairs, char *not_plain, size_t not_plain_size) {
  int count = 0;
  JsonbIterator *iterator = JsonbIteratorInit(&object->root);
  JsonbValue value;
  not_plain[0] = '\0';
  for (JsonbIteratorToken token; (token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE && count < most_fields;) {
    if (token == WJB_KEY) {
      pairs[count].key = value.val.string.val;
      pairs[count].key_length = value.val.string.len;
    } else if (token == WJB_VALUE) {
      PlainPair &pair = pairs[count++];
      pair.value = "";
      switch (value.type) {
        case jbvNull: break;
        case jbvString: pair.value = pnstrdup(value.val.string.val, value.val.string.len); break;
        case jbvNumeric: pair.value = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value.val.numeric))); break;
        case jbvBool: pair.value = value.val.boolean ? "true" : "false"; break;
        default:
          if (value.type == jbvBinary && JsonContainerIsArray(value.val.binary.data)) pair.value = join_texts(value.val.binary.data);
          if (pair.value != nullptr && *pair.value != '\0') break;
          // Cut at a character: half of one would make the message itself badly encoded.
          strlcpy(not_plain, pnstrdup(pair.key, pg_mbcliplen(pair.key, pair.key_length, static_cast<int>(not_plain_size) - 1)), not_plain_size);
          return count;
      }
      pair.value_length = static_cast<int>(strlen(pair.value));
    }
  }
  return count;
}

protocol::ConfigPairs pairs_of(Jsonb *object) {
  PlainPair pairs[most_fields];
  char not_plain[128];
  const int count = call::guarded([&] { return read_pairs(object, pairs, not_plain, sizeof not_plain); });
  if (not_plain[0] != '\0')
    throw Error(code::InvalidData, std::string("config: \"") + not_plain + "\" must be a plain value or a list of one text or more", {},
                "pgtrain.config_fields() lists what there is.");
  if (count == most_fields) throw Error(code::InvalidData, "config has too many keys", {}, "pgtrain.config_fields() lists what there is.");
  protocol::ConfigPairs result;
  for (int i = 0; i < count; ++i)
    result.emplace_back(std::string(pairs[i].key, pairs[i].key_length), std::string(pairs[i].value, pairs[i].value_length));
  return result;
}

bool is_number(const protocol::ConfigField &field) {
  using protocol::FieldKind;
  return field.kind == FieldKind::Integer || field.kind == FieldKind::Unsigned64 || field.kind == FieldKind::Real;
}

std::string json_of(const protocol::RunConfig &config) {
  const auto &fields = protocol::config_fields();
  std::string text = "{";
  for (size_t i = 0; i < config.pairs().size(); ++i) {
    const auto &[key, value] = config.pairs()[i];
    text += (i > 0 ? "," : "") + worker::json_text(key) + ":" + (is_number(fields.at(i)) ? value : worker::json_text(value));
  }
  return text + "}";
}

FrozenConfig last_frozen;

}  // namespace

const FrozenConfig &freeze_config(Jsonb *object, const protocol::RunFacts &facts) {
  const std::string_view given(reinterpret_cast<const char *>(object), VARSIZE(object));
  if (!last_frozen.given.empty() && last_frozen.given == given && last_frozen.facts == facts) return last_frozen;
  protocol::RunConfig config;
  protocol::ConfigError error;
  if (!protocol::freeze_config(pairs_of(object), config, error, facts))
    throw Error(code::InvalidData, "config: " + error.message, error.key.empty() ? std::string() : "The key is \"" + error.key + "\".", error.hint);
  FrozenConfig frozen;
  const crypto::Digest hash = crypto::sha256(config.canonical_text());
  frozen.hash.assign(reinterpret_cast<const char *>(hash.data()), hash.size());
  frozen.json = json_of(config);
  // Of other tokenizers only the trainer knows how many tokens a sample has.
  if (config.text("long_samples") == "error" && config.text("tokenizer") == "byte") frozen.sample_bytes = config.integer("context");
  frozen.config = std::move(config);
  frozen.given = given;
  frozen.facts = facts;
  last_frozen = std::move(frozen);
  return last_frozen;
}

std::string jsonb_kind(Jsonb *value) {
  const char *name = call::guarded([value] { return TextDatumGetCString(DirectFunctionCall1(jsonb_typeof, JsonbPGetDatum(value))); });
  return name;
}

}  // namespace pgtrain::pg::submit
