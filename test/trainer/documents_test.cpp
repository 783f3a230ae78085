// documents_test.cpp: the tables of docs/run-settings.md and docs/models.md are what the code says. With PGTRAIN_WRITE_DOCS set they are
// written anew, between their marks.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "engine/models/model_config.hpp"
#include "engine/tokenizers/tokenizer.hpp"
#include "protocol/run_config.hpp"

namespace pgtrain::trainer::test {
namespace {

// A bar would end a cell.
std::string cell(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '|' ? std::string(", ") : std::string(1, c);
  return out;
}

std::string number(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.10g", value);
  return text;
}

std::string settings_table() {
  std::string out = "| setting | default | allowed | meaning |\n| --- | --- | --- | --- |\n";
  for (const protocol::ConfigField& field : protocol::config_fields()) {
    using protocol::FieldKind;
    const bool is_number = field.kind == FieldKind::Integer || field.kind == FieldKind::Real;
    const std::string allowed = field.kind == FieldKind::Choice ? cell(field.choices)
                                : field.kind == FieldKind::Text ? "text of at most " + number(field.maximum) + " bytes"
                                : is_number && field.maximum < 9e18 ? number(field.minimum) + " to " + number(field.maximum) + (*field.unit ? std::string(" ") + field.unit : "")
                                                                    : "0 or more";
    const std::string value = *field.default_rule ? field.default_rule : *field.default_value ? field.default_value : "empty";
    out += std::string("| `") + field.name + "` | " + cell(value) + " | " + allowed + " | " + cell(field.description) + " |\n";
  }
  return out;
}

std::string models_table() {
  std::string out = "| model_type | models | forms of config.json |\n| --- | --- | --- |\n";
  for (const engine::models::SupportedModel& model : engine::models::supported_models())
    out += std::string("| `") + model.model_type + "` | " + cell(model.models) + " | " + cell(model.config_forms) + " |\n";
  return out;
}

std::string vocabularies() {
  std::string out;
  for (const std::string& name : engine::tokenizers::known_gguf_pre_tokenizers()) out += (out.empty() ? "`" : ", `") + name + "`";
  return out + "\n";
}

void expect_part(const std::string& page, const std::string& mark, const std::string& wanted) {
  const std::string path = std::string(PGTRAIN_SOURCE_DIR) + "/docs/" + page, begin = "<!-- " + mark + " -->\n", end = "<!-- end of " + mark + " -->\n";
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  std::string whole = text.str();
  const std::size_t from = whole.find(begin), to = whole.find(end);
  ASSERT_NE(from, std::string::npos) << path;
  ASSERT_NE(to, std::string::npos) << path;
  const std::size_t first = from + begin.size();
  if (std::getenv("PGTRAIN_WRITE_DOCS") != nullptr) {
    whole.replace(first, to - first, wanted);
    std::ofstream(path) << whole;
    return;
  }
  EXPECT_EQ(whole.substr(first, to - first), wanted) << page << " differs from the code; PGTRAIN_WRITE_DOCS=1 writes it anew";
}

TEST(Documents, TheSettingsOfRunsAreThoseOfTheCode) { expect_part("run-settings.md", "settings", settings_table()); }
TEST(Documents, TheModelsAreThoseOfTheCode) { expect_part("models.md", "models", models_table()); }
TEST(Documents, TheVocabulariesAreThoseOfTheCode) { expect_part("models.md", "vocabularies", vocabularies()); }

}  // namespace
}  // namespace pgtrain::trainer::test
