// by_hand_test.cpp: the trainer's command line, as a person uses it.
#include "trainer/child.hpp"

namespace pgtrain::trainer::test {
namespace {

const std::string program = PGTRAIN_TRAINER;

std::string output_of(const JobFolder& folder, const std::vector<std::string>& arguments, int code) {
  Child child(program, folder, arguments);
  const std::string text = child.read_text();
  EXPECT_EQ(child.wait().code, code) << text;
  return text;
}

TEST(ByHand, VersionAndDevices) {
  JobFolder folder;
  EXPECT_EQ(output_of(folder, {"--version"}, 0).rfind("pgtrain-trainer 0.1.0", 0), 0u);
  const std::string devices = output_of(folder, {"devices"}, 0);
  EXPECT_NE(devices.find("\"kind\":\"cpu\""), std::string::npos) << devices;
  EXPECT_NE(devices.find("\"selector\":\"cpu\""), std::string::npos) << devices;
  EXPECT_EQ(output_of(folder, {"no-such-command"}, 2), "");
}

TEST(ByHand, TrainsAndGenerates) {
  JobFolder folder;
  std::string text;
  for (int i = 0; i < 50; ++i) text += "line " + std::to_string(i) + " of a small text\n";
  folder.write("text.txt", text);
  folder.write("train.job", "# a run by hand\nkind = train\nwork_folder = out\ntext = text.txt\nsize = nano\nsteps = 5\nthreads = 1\n");
  const std::string trained = output_of(folder, {"run", "train.job"}, 0);
  EXPECT_NE(trained.find("completed: 5 steps"), std::string::npos) << trained;
  EXPECT_TRUE(fs::exists(folder.path() / "out/model.safetensors"));
  folder.write("more.txt", "line 7 of a text\n\nline 8 of a text\n");
  folder.write("validated.job", "kind = train\nwork_folder = out\ntext = text.txt\nvalidation = more.txt\nsize = nano\nsteps = 2\nthreads = 1\n");
  const std::string validated = output_of(folder, {"run", "validated.job"}, 0);
  EXPECT_NE(validated.find("50 samples, 2 held out"), std::string::npos) << validated;
  folder.write("generate.job", "kind = generate\nwork_folder = out\nmodel = out\nprompt = line\nmax_tokens = 5\nthreads = 1\n");
  EXPECT_NE(output_of(folder, {"run", "generate.job"}, 0).find("completed"), std::string::npos);

  // Of two prompts, written in one batch, the answers come one after the other as each alone.
  const auto answers_to = [&](const std::string& prompts) {
    folder.write("answers.job", "kind = generate\nwork_folder = out\nmodel = out\n" + prompts + "max_tokens = 9\ntemperature = 0\nthreads = 1\n");
    const std::string said = output_of(folder, {"run", "answers.job"}, 0);
    return said.substr(0, said.find("completed"));
  };
  EXPECT_EQ(answers_to("prompt = line 1\nprompt = text\n"), answers_to("prompt = line 1\n") + answers_to("prompt = text\n"));
}

TEST(ByHand, MistakesAreNamed) {
  JobFolder folder;
  output_of(folder, {"run", "not_there.job"}, 1);
  folder.write("bad.job", "kind = swim\n");
  output_of(folder, {"run", "bad.job"}, 1);
}

}  // namespace
}  // namespace pgtrain::trainer::test
