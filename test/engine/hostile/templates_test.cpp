// Chat templates and conversations damaged at random: rendered or refused, in bounded time and memory.
#include <iterator>

#include "engine/templates/chat_template.hpp"
#include "mutations.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine {
namespace {

TEST(HostileTemplates, AreRenderedOrRefused) {
  const unsigned seed = test::seed();
  std::mt19937 random(seed);
  const std::string good =
      "{% macro show(x, y=1) %}{{ x|trim }}{{ y }}{% endmacro %}{%- set ns = namespace(a=0, s='') %}\n{% for m in messages[::-1] if m.role != 'x' %}{% set ns.a = ns.a + loop.index0 * 99 %}"
      "{% if m.content is string and not loop.last %}{{ show(m.content.split('a')[0] ~ m['role'][1:5], ns.a) }}{% elif m|tojson(indent=2) in 'abc' %}{{ range(9)|list|join(',') }}"
      "{% else %}{{ {'k': [1, 2.5, none]} | string | upper }}{% endif %}{% else %}{{ raise_exception('none') }}{% endfor %}{{ eos_token if add_generation_prompt else \"\\u00e9\\n\" }}";
  const std::string messages = R"([{"role":"system","content":"be good"},{"role":"user","content":" a ü b 😀 "},{"role":"assistant","content":"answer","tool_calls":[{"n":1e3,"deep":[[[{"x":null}]]]}]}])";
  templates::RenderOptions options;
  options.eos_token = "<end>";
  Outcome outcome, spans;
  for (int round = 0; round < 6000; ++round) {
    const std::string text = round % 3 == 0 ? good : mutated(random, good, good.size());
    const std::string row = round % 3 == 1 ? messages : mutated(random, messages, messages.size());
    const std::string trace = "seed " + std::to_string(seed) + " round " + std::to_string(round);
    expect_well_behaved(trace, {"model_invalid", "data_invalid"}, std::size_t{64} << 20, outcome, [&] { templates::ChatTemplate::parse(text, "mutated").render(row, options); });
    expect_well_behaved(trace, {"model_invalid", "data_invalid"}, std::size_t{64} << 20, spans, [&] { templates::ChatTemplate::parse(text, "mutated").render_with_spans(row, options); });
  }
  EXPECT_GT(outcome.refused, 1000);
  EXPECT_GT(outcome.accepted, 100);
}

}  // namespace
}  // namespace pgtrain::engine
