// job_file.hpp: a job written by hand, for debugging, profiling and trying the engine without a server.
#pragma once

#include <string>

#include "protocol/message.hpp"

namespace pgtrain::trainer {

struct JobFile {
  protocol::down::Job job;
  std::string work_folder;
};

/// Reads lines `key = value`; '#' begins a comment line. Keys: kind (train, plan, generate), device, threads,
/// memory_limit_bytes, work_folder, data (a samples file) or text (a plain text file, one sample a line, with a base model
/// a JSON record a line), resume, model (a folder), base (a folder or a GGUF file), prompt or messages (once for each), max_tokens,
/// temperature, top_k, top_p, min_p, repetition_penalty, stop, seed (of generate), and every key of the run configuration.
/// Paths are relative to the present folder and come out absolute. Creates the work folder and, for `text`, the
/// samples file in it. Throws engine::core::Error that names file and line.
JobFile read_job_file(const std::string& path);

}  // namespace pgtrain::trainer
