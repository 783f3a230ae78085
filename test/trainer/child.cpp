// child.cpp: starting, reading and ending of the trainer under test.
#include "trainer/child.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>

namespace pgtrain::trainer::test {

using namespace protocol;
using Clock = std::chrono::steady_clock;

namespace {

int milliseconds_until(Clock::time_point deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::max<long long>(0, left));
}

}  // namespace

JobFolder::JobFolder(uint64_t run_id, uint32_t attempt) {
  std::string pattern = fs::temp_directory_path() / "pgtrain_test_XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
  root_ = pattern;
  path_ = root_ / ("5_" + std::to_string(run_id) + "_" + std::to_string(attempt));
  fs::create_directory(path_);
}

JobFolder::~JobFolder() {
  std::error_code ignored;
  fs::remove_all(root_, ignored);
}

std::string JobFolder::read(const std::string& name) const {
  std::ifstream file(path_ / name, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void JobFolder::write(const std::string& name, const std::string& content) const {
  std::ofstream(path_ / name, std::ios::binary) << content;
}

std::vector<std::string> JobFolder::names() const {
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(path_)) found.push_back(entry.path().filename());
  std::sort(found.begin(), found.end());
  return found;
}

InputFile JobFolder::write_samples(const std::vector<std::string>& texts, const std::string& name) const {
  std::string data;
  for (const std::string& text : texts) {
    for (int shift = 0; shift < 32; shift += 8) data.push_back(static_cast<char>(text.size() >> shift & 0xff));
    data += text;
  }
  write(name, data);
  return {name, data.size(), ""};
}

Child::Child(const std::string& program, const JobFolder& folder, std::vector<std::string> arguments) {
  int in[2], out[2], err[2];
  if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
  std::vector<char*> words;
  std::string name = program;
  words.push_back(name.data());
  for (std::string& argument : arguments) words.push_back(argument.data());
  words.push_back(nullptr);
  pid_ = fork();
  if (pid_ == 0) {
    setpgid(0, 0);
    dup2(in[0], 0);
    dup2(out[1], 1);
    dup2(err[1], 2);
    if (chdir(folder.path().c_str()) == 0) execv(program.c_str(), words.data());
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  close(err[1]);
  input_ = in[1];
  output_ = out[0];
  errors_ = err[0];
  fcntl(errors_, F_SETFL, O_NONBLOCK);
  process_ = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
  ::signal(SIGPIPE, SIG_IGN);
}

Child::~Child() {
  close_input();
  if (!is_waited_) {
    kill(-pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close_output();
  close(errors_);
  close(process_);
}

void Child::send_bytes(const std::string& bytes) {
  size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t count = write(input_, bytes.data() + sent, bytes.size() - sent);
    if (count <= 0) return;  // it left; the test sees that where it reads
    sent += static_cast<size_t>(count);
  }
}

void Child::close_input() {
  if (input_ >= 0) close(input_);
  input_ = -1;
}

void Child::close_output() {
  if (output_ >= 0) close(output_);
  output_ = -1;
}

void Child::signal(int number) { kill(pid_, number); }

// Waits for bytes of standard output and takes them. False: end, or the deadline.
bool Child::fill(Clock::time_point deadline) {
  for (;;) {
    pollfd watched[2] = {{output_, POLLIN, 0}, {errors_, POLLIN, 0}};
    if (poll(watched, 2, milliseconds_until(deadline)) == 0) {
      is_timed_out_ = true;
      return false;
    }
    char buffer[65536];
    // A trainer that complains a lot must not block on its error stream.
    if (watched[1].revents & POLLIN)
      while (read(errors_, buffer, sizeof buffer) > 0) {
      }
    if (watched[0].revents == 0) {
      if (Clock::now() > deadline) return false;
      continue;
    }
    const ssize_t count = read(output_, buffer, sizeof buffer);
    if (count <= 0) return false;
    text_.assign(buffer, static_cast<size_t>(count));
    return true;
  }
}

std::optional<UpMessage> Child::next(std::chrono::milliseconds limit) {
  is_timed_out_ = false;
  const auto deadline = Clock::now() + limit;
  for (;;) {
    Frame frame;
    UpMessage message;
    switch (reader_.next(frame)) {
      case FrameReader::Status::Ready:
        if (decode(frame, message, error_)) return message;
        return std::nullopt;
      case FrameReader::Status::Broken:
        error_ = reader_.error();
        return std::nullopt;
      case FrameReader::Status::NeedMore:
        if (!fill(deadline)) {
          if (!is_timed_out_ && reader_.is_inside_frame()) error_ = "the stream ended inside a frame";
          return std::nullopt;
        }
        reader_.feed(text_);
    }
  }
}

std::string Child::read_text(std::chrono::milliseconds limit) {
  const auto deadline = Clock::now() + limit;
  std::string all;
  while (fill(deadline)) all += text_;
  return all;
}

Exit Child::wait(std::chrono::milliseconds limit) {
  Exit exit;
  const auto deadline = Clock::now() + limit;
  char buffer[4096];
  for (;;) {
    pollfd watched[2] = {{process_, POLLIN, 0}, {errors_, POLLIN, 0}};
    poll(watched, 2, milliseconds_until(deadline));
    ssize_t count = 0;
    while ((count = read(errors_, buffer, sizeof buffer)) > 0) exit.errors.append(buffer, static_cast<size_t>(count));
    if (watched[0].revents != 0) break;
    if (Clock::now() > deadline) {
      ADD_FAILURE() << "the trainer did not end by itself";
      kill(-pid_, SIGKILL);
      break;
    }
  }
  int status = 0;
  waitpid(pid_, &status, 0);
  is_waited_ = true;
  if (WIFEXITED(status)) exit.code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) exit.signal = WTERMSIG(status);
  return exit;
}

void Transcript::add(const UpMessage& message) {
  all.push_back(message);
  if (auto* plan_said = std::get_if<up::Plan>(&message)) plan = *plan_said;
  if (auto* failed_said = std::get_if<up::Failed>(&message)) failed = *failed_said;
  if (auto* done_said = std::get_if<up::Done>(&message)) done = *done_said;
  if (auto* now = std::get_if<up::Progress>(&message)) progress.push_back(*now);
  if (auto* found = std::get_if<up::Evaluation>(&message)) evaluations.push_back(*found);
  if (auto* sample = std::get_if<up::Sample>(&message)) samples.push_back(*sample);
  if (auto* piece = std::get_if<up::Piece>(&message)) pieces.push_back(*piece);
  if (auto* speed_said = std::get_if<up::Speed>(&message)) speed = *speed_said;
  if (auto* beat = std::get_if<up::Heartbeat>(&message)) heartbeats.push_back(*beat);
  if (auto* log = std::get_if<up::Log>(&message)) logs.push_back(*log);
  if (auto* file = std::get_if<up::File>(&message)) files[file->name] = *file;
}

down::Job small_job(const JobFolder& folder, std::vector<ConfigPair> config) {
  down::Job job;
  job.run_id = 1;
  job.attempt = 1;
  job.device = "cpu";
  job.threads = 1;
  job.heartbeat_ms = 20;
  job.grace_ms = 20000;
  job.config = {{"size", "nano"}};
  for (ConfigPair& pair : config) job.config.push_back(std::move(pair));
  std::vector<std::string> texts;
  for (int i = 0; i < 40; ++i)
    texts.push_back("the number " + std::to_string(i * 7919 % 101) + " is followed by the number " + std::to_string(i));
  job.data = folder.write_samples(texts);
  return job;
}

void start_job(Child& child, const down::Job& job) {
  child.send(down::Hello{protocol_version, "test"});
  child.send(job);
}

Transcript play(Child& child, const JobFolder& folder, const std::function<void(const UpMessage&)>& watch) {
  Transcript transcript;
  while (auto message = child.next(60s)) {
    transcript.add(*message);
    if (auto* file = std::get_if<up::File>(&*message)) {
      transcript.contents[file->name] = folder.read(file->name);
      EXPECT_EQ(transcript.contents[file->name].size(), file->bytes) << file->name;
      child.send(down::Ack{file->name});
    }
    if (watch) watch(*message);
  }
  EXPECT_FALSE(child.is_timed_out()) << "the trainer fell silent";
  transcript.error = child.error();
  return transcript;
}

Transcript run_job(const std::string& program, const JobFolder& folder, const down::Job& job, int code) {
  Child child(program, folder);
  start_job(child, job);
  Transcript transcript = play(child, folder);
  const Exit exit = child.wait();
  EXPECT_EQ(exit.code, code) << exit.errors;
  EXPECT_EQ(transcript.error, "");
  return transcript;
}

}  // namespace pgtrain::trainer::test
