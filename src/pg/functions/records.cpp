// Checking JSON samples before they are stored: which of the four shapes each has, and that every field that a template or the
// trainer will read is there and of its kind. What is refused is named by ordinal and field. Called by append_records.
#include "pg/compat.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
}

#include <cstring>
#include <string>

#include "pg/boundary/arguments.hpp"
#include "pg/boundary/function.hpp"
#include "pg/call/guard.hpp"
#include "pg/errors.hpp"

namespace {

namespace call = pgtrain::pg::call;
namespace code = pgtrain::pg::code;
using pgtrain::pg::Error;
using pgtrain::pg::boundary::text_argument;

enum Kind { kText, kPromptCompletion, kMessages, kPreference, kKinds };
constexpr const char *kind_names[kKinds] = {"text", "prompt_completion", "messages", "preference"};
constexpr char shapes[] =
    R"(Give {"text": ...}, {"prompt": ..., "completion": ...}, {"messages": [{"role": ..., "content": ...}, ...]} or {"prompt": ..., "chosen": ..., "rejected": ...}.)";
constexpr char message_shape[] = R"(A message is {"role": "system", "user", "assistant" or "tool", "content": "..."}.)";

// Where in a record something is: a field, or a message of it and perhaps a field of that. Plain, so that it may lie in a guarded body.
struct Place {
  int64 ordinal;
  const char *field = nullptr;
  int index = -1;
  const char *inner = nullptr;

  Place in(const char *name) const { return {ordinal, name}; }
  Place at(int i) const { return {ordinal, field, i}; }
  Place inside(const char *name) const { return {ordinal, field, index, name}; }
};

[[noreturn]] void refuse(const Place &place, const char *why, const char *hint) {
  std::string what = "It";
  if (place.field != nullptr) {
    what = std::string("Its field ") + place.field;
    if (place.index >= 0) what += "[" + std::to_string(place.index) + "]";
    if (place.inner != nullptr) what += std::string(".") + place.inner;
  }
  throw Error(code::InvalidData, "sample " + std::to_string(place.ordinal) + " is not acceptable", what + " " + why + ".", hint);
}

// Server world below: nothing with a destructor is alive while the server is called.

struct Member {
  bool is_there = false;
  JsonbValue value;

  bool is_string() const { return is_there && value.type == jbvString; }
  bool is_null() const { return is_there && value.type == jbvNull; }
  JsonbContainer *array() const {
    return is_there && value.type == jbvBinary && JsonContainerIsArray(value.val.binary.data) ? value.val.binary.data : nullptr;
  }
  JsonbContainer *object() const {
    return is_there && value.type == jbvBinary && JsonContainerIsObject(value.val.binary.data) ? value.val.binary.data : nullptr;
  }
};

Member member(JsonbContainer *object, const char *name) {
  Member found;
  found.is_there = getKeyJsonValueFromContainer(object, name, static_cast<int>(strlen(name)), &found.value) != nullptr;
  return found;
}

void require_string(const Member &member, const Place &place, bool may_be_empty, const char *hint) {
  if (!member.is_there) refuse(place, "is missing", hint);
  if (!member.is_string()) refuse(place, "is not a string", hint);
  if (!may_be_empty && member.value.val.string.len == 0) refuse(place, "is empty", hint);
}

bool equals(const Member &member, int32 number) {
  return member.value.type == jbvNumeric &&
         DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(member.value.val.numeric), DirectFunctionCall1(int4_numeric, Int32GetDatum(number))));
}

// A message without text is one that calls tools. An answer of weight 0 is not learned.
void check_message(JsonbContainer *message, const Place &place, bool *is_learned) {
  const Member role = member(message, "role"), content = member(message, "content"), calls = member(message, "tool_calls");
  require_string(role, place.inside("role"), false, message_shape);
  const bool is_answer = role.value.val.string.len == 9 && memcmp(role.value.val.string.val, "assistant", 9) == 0;
  const bool has_calls = calls.array() != nullptr && JsonContainerSize(calls.array()) > 0;
  if (!(has_calls && (!content.is_there || content.is_null()))) require_string(content, place.inside("content"), true, message_shape);
  const Member weight = member(message, "weight");
  const bool has_weight = weight.is_there && !weight.is_null();
  if (has_weight && !is_answer) refuse(place.inside("weight"), "is of a message that is no answer", "Only messages of role assistant have a weight; leave it out of the others.");
  if (has_weight && !equals(weight, 0) && !equals(weight, 1))
    refuse(place.inside("weight"), "is neither 0 nor 1", "Give 0 to an answer that is not to be learned, or leave weight out.");
  *is_learned = is_answer && !(has_weight && equals(weight, 0));
}

void check_messages(const Member &list, const Place &place, bool needs_answer) {
  JsonbContainer *array = list.array();
  if (array == nullptr) refuse(place, list.is_there ? "is not an array of messages" : "is missing", message_shape);
  const int count = static_cast<int>(JsonContainerSize(array));
  if (count == 0) refuse(place, "has no messages", message_shape);
  bool has_answer = false;
  for (int i = 0; i < count; ++i) {
    Member item;
    const JsonbValue *value = getIthJsonbValueFromContainer(array, i);
    item.is_there = true;
    item.value = *value;
    if (item.object() == nullptr) refuse(place.at(i), "is not an object", message_shape);
    bool is_learned = false;
    check_message(item.object(), place.at(i), &is_learned);
    has_answer = has_answer || is_learned;
  }
  if (needs_answer && !has_answer) refuse(place, "has no message of the role assistant whose weight is not 0, so there is nothing to learn", message_shape);
}

void check_preference(JsonbContainer *record, const Place &place) {
  const Member prompt = member(record, "prompt"), chosen = member(record, "chosen"), rejected = member(record, "rejected");
  constexpr char hint[] = "prompt (which may be left out), chosen and rejected are all texts or all lists of messages.";
  if (chosen.array() != nullptr) {
    check_messages(chosen, place.in("chosen"), true);
    check_messages(rejected, place.in("rejected"), true);
    if (prompt.is_there) check_messages(prompt, place.in("prompt"), false);
    return;
  }
  require_string(chosen, place.in("chosen"), false, hint);
  require_string(rejected, place.in("rejected"), false, hint);
  if (prompt.is_there) require_string(prompt, place.in("prompt"), true, hint);
}

Kind check_record(Jsonb *record, const Place &place) {
  if (!JB_ROOT_IS_OBJECT(record)) refuse(place, JB_ROOT_IS_SCALAR(record) ? "is a plain JSON value" : "is a JSON array", shapes);
  JsonbContainer *root = &record->root;
  const bool has_text = member(root, "text").is_there, has_completion = member(root, "completion").is_there,
             has_messages = member(root, "messages").is_there,
             has_preference = member(root, "chosen").is_there || member(root, "rejected").is_there;
  const int shapes_found = has_text + has_completion + has_messages + has_preference;
  if (shapes_found > 1) refuse(place, "has fields of more than one shape", shapes);
  if (has_text) {
    require_string(member(root, "text"), place.in("text"), false, shapes);
    return kText;
  }
  if (has_messages) {
    check_messages(member(root, "messages"), place.in("messages"), true);
    return kMessages;
  }
  if (has_preference) {
    check_preference(root, place);
    return kPreference;
  }
  if (!has_completion && !member(root, "prompt").is_there) refuse(place, "has none of the fields text, completion, messages and chosen", shapes);
  // Both may be parts of a conversation, of which the second is learned.
  if (member(root, "completion").array() != nullptr) {
    check_messages(member(root, "completion"), place.in("completion"), true);
    check_messages(member(root, "prompt"), place.in("prompt"), false);
    return kMessages;
  }
  require_string(member(root, "prompt"), place.in("prompt"), true, shapes);
  require_string(member(root, "completion"), place.in("completion"), false, shapes);
  return kPromptCompletion;
}

// Only such a database holds text that is no text in any encoding.
void check_encoding(Jsonb *record, const Place &place) {
  if (GetDatabaseEncoding() != PG_SQL_ASCII) return;
  const char *text = JsonbToCString(nullptr, &record->root, VARSIZE(record));
  if (!pg_verify_mbstr(PG_UTF8, text, static_cast<int>(strlen(text)), true)) refuse(place, "is not valid UTF-8", "Convert it to UTF-8 first.");
}

}  // namespace

// check_records(records, first_ordinal, wanted) returns the formats found
PGTRAIN_FUNCTION(pgtrain_check_records) {
  const int64 first = PG_GETARG_INT64(1);
  const std::string wanted = PG_ARGISNULL(2) ? std::string() : std::string(text_argument(fcinfo, 2));
  bool is_found[kKinds] = {};
  const ArrayType *result = call::guarded([&]() -> ArrayType * {
    Datum *values = nullptr;
    bool *nulls = nullptr;
    int count = 0;
    deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), JSONBOID, -1, false, TYPALIGN_INT, &values, &nulls, &count);
    for (int i = 0; i < count; ++i) {
      const Place place{first + i};
      if (nulls[i]) refuse(place, "is null", "Leave nulls out.");
      Jsonb *record = DatumGetJsonbP(values[i]);
      const Kind kind = check_record(record, place);
      check_encoding(record, place);
      if (!wanted.empty() && wanted != kind_names[kind])
        throw Error(code::InvalidData, "sample " + std::to_string(place.ordinal) + " is not acceptable",
                    std::string("It has the format ") + kind_names[kind] + ", the dataset " + wanted + ".",
                    "Make another dataset for it, or one of the format mixed.");
      is_found[kind] = true;
    }
    Datum found[kKinds];
    int kinds = 0;
    for (int kind = 0; kind < kKinds; ++kind)
      if (is_found[kind]) found[kinds++] = CStringGetTextDatum(kind_names[kind]);
    return construct_array(found, kinds, TEXTOID, -1, false, TYPALIGN_INT);
  });
  PG_RETURN_ARRAYTYPE_P(result);
}
