#!/usr/bin/env python3
"""Training by preferences (DPO) beside TRL. check_preferences.py PREFERENCES_INTEROP

PREFERENCES_INTEROP is the program built from preferences_interop.cpp: whole runs of ours, which say the pairs of each step. TRL's DPOTrainer
gets the same pairs in the same order as its own padded batches, the same weights and the same optimiser; its reference is the model
without its adapter, or a copy of it where the whole trains. The bars are those of check_finetune.py, and what we report as accuracy,
reward_accuracy and reward_margin is TRL's rewards/accuracies and rewards/margins. Exit status 1 on a difference.
"""
import json
import os
import random
import subprocess
import sys
import tempfile
import types

sys.dont_write_bytecode = True  # nothing is written beside the tests
import check_finetune as finetuning  # noqa: E402

TASK = {"method": "lora", "beta": 0.3, "rank": 8, "alpha": 16, "length": 48, "batch": 2, "accumulation": 2, "steps": 100, "learning_rate": 2e-3, "weight_decay": 0.01,
        "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "gradient_clip": 1.0}
WORDS = "fox dog lazy quick return capital France tokens over jumps brown the".split()


def records(seed):
    """Questions whose chosen answer follows a rule, with answers of different lengths."""
    choose = random.Random(seed)
    out = []
    for _ in range(64):
        first, second = choose.sample(WORDS, 2)
        tail = " ".join(choose.choices(WORDS, k=choose.randrange(3)))
        out.append(json.dumps({"prompt": f"{first} {second}:", "chosen": f" {second} {tail}", "rejected": " ".join(choose.choices(WORDS, k=choose.randrange(1, 4)))}))
    return out


def pairs_of(micro_batches):
    """Each pair's two sequences as tokens and labels, in the order of the batches."""
    import numpy as np
    out = []
    for tokens, _, _, targets, sequences in micro_batches.reshape(len(micro_batches), 5, -1):
        for number in range(0, sequences.max() + 1, 2):
            pair = {}
            for side, name in ((0, "chosen"), (1, "rejected")):
                cells = np.flatnonzero(sequences == number + side)
                pair[f"{name}_input_ids"] = [*tokens[cells].tolist(), int(targets[cells[-1]])]  # an end is always learned
                pair[f"{name}_labels"] = [-100, *np.where(targets[cells] < 0, -100, targets[cells]).tolist()]
                pair[f"{name}_attention_mask"] = [1] * (len(cells) + 1)
            out.append(pair)
    return out


def read_batches(path, task, per_step):
    import numpy as np
    micro_batches = np.fromfile(path, dtype=np.int32).reshape(-1, per_step, 5, task["batch"], task["length"])
    return [pairs_of(step) for step in micro_batches]


def import_trl():
    """TRL's trainer. What it wants of the package `datasets` is a name to inherit from; our batches need nothing else of it."""
    import importlib.machinery
    import torch
    import transformers  # noqa: F401  asks first whether there is such a package
    stand_in = types.ModuleType("datasets")
    stand_in.__spec__ = importlib.machinery.ModuleSpec("datasets", None)
    stand_in.Dataset = type("Dataset", (torch.utils.data.Dataset,), {"map": lambda self, *_, **__: self, "__len__": lambda self: 0})
    sys.modules.setdefault("datasets", stand_in)
    from trl.trainer.dpo_trainer import DPOTrainer
    return DPOTrainer, sys.modules["datasets"].Dataset


def train_theirs(folder, model, steps, task, rates, base):
    """Losses and metrics of every step, and the trainer."""
    import torch
    import transformers
    trainer_type, dataset = import_trl()

    class Recorded(trainer_type):
        losses, metrics = [], []

        def get_train_dataloader(self):
            return torch.utils.data.DataLoader([self.data_collator(pairs) for pairs in steps], batch_size=None)

        def get_batch_loss_metrics(self, *given, **named):
            loss, metrics = super().get_batch_loss_metrics(*given, **named)
            self.losses.append(loss.item())
            self.metrics.append({name: float(value) for name, value in metrics.items()})
            return loss, metrics

    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(base)
    tokenizer.pad_token = tokenizer.eos_token
    arguments = transformers.TrainingArguments(output_dir=f"{folder}/theirs", max_steps=len(steps), per_device_train_batch_size=1, max_grad_norm=task["gradient_clip"], logging_strategy="no",
                                               save_strategy="no", report_to=[], remove_unused_columns=False, disable_tqdm=True, use_cpu=True)
    optimizer = finetuning.make_optimizer(model, task, 1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates[min(step, len(rates) - 1)])
    reference = {} if task["method"] != "full" else {"ref_model": finetuning.load(base)}
    trainer = Recorded(model, **reference, args=arguments, beta=task["beta"], train_dataset=dataset(), tokenizer=tokenizer, max_length=task["length"], max_prompt_length=task["length"],
                       optimizers=(optimizer, schedule))
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return trainer


def compare_evaluation(name, trainer, pairs, found, evaluated=None):
    """Ours on held-out pairs, which are measured one by one by TRL."""
    import torch
    trainer.model.eval()
    trainer.losses.clear(), trainer.metrics.clear()
    with torch.no_grad():
        for pair in pairs:
            trainer.get_batch_loss_metrics(trainer.model, trainer.data_collator([pair]), train_eval="eval")
    mean = lambda key: sum(one[f"eval_rewards/{key}"] for one in trainer.metrics) / len(pairs)
    theirs = [sum(trainer.losses) / len(pairs), mean("accuracies"), len(pairs), mean("margins")]
    for ours in (found, evaluated):
        if ours is not None and not all(abs(a - b) <= 1e-3 * max(1.0, abs(b)) for a, b in zip(ours, theirs)):
            finetuning.fail(f"{name}: held-out loss, accuracy, pairs and margin: ours {ours}, TRL's {theirs}")
    return theirs


def check(program, folder):
    finetuning.use_one_thread()
    import numpy as np
    import torch
    import transformers
    sizes = dict(vocab_size=300, hidden_size=72, intermediate_size=100, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, bos_token_id=0,
                 eos_token_id=0, initializer_range=0.1)
    transformers.logging.set_verbosity_error()
    for seed, method in enumerate(("lora", "qlora", "full")):
        name = f"dpo with {method}"
        torch.manual_seed(seed)
        base, run = f"{folder}/{method}-base", f"{folder}/{method}"
        transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**sizes, tie_word_embeddings=False)).save_pretrained(base, safe_serialization=True)
        finetuning.make_tokenizer(base, 300)
        task = {**TASK, "method": method, "base": base, "seed": seed, "records": records(seed)}
        os.makedirs(run)
        with open(f"{run}/task.json", "w", encoding="utf-8") as file:
            json.dump(task, file)
        done = subprocess.run([program, run], capture_output=True, text=True)
        if done.returncode != 0:
            finetuning.fail(f"{name}: {done.stderr}")
        said = json.load(open(f"{run}/said.json", encoding="utf-8"))
        steps = read_batches(f"{run}/training.i32", task, task["accumulation"])
        held_out = [pair for batch in read_batches(f"{run}/held_out.i32", task, 1) for pair in batch]
        model = finetuning.load(base) if method == "full" else finetuning.load_initial(base, run, {"lora": {}, "quantized": method == "qlora"})
        trainer = train_theirs(run, model, steps, task, said["rates"], base)
        curve = finetuning.compare_curves(name, said["losses"], trainer.losses)
        if not trainer.losses[-1] < 0.9 * trainer.losses[0]:
            finetuning.fail(f"{name}: nothing was learned: {trainer.losses}")
        accuracies = [one["rewards/accuracies"] for one in trainer.metrics]
        for step, (ours, theirs, pairs) in enumerate(zip(said["accuracies"], accuracies, steps)):
            if not abs(ours - theirs) <= 1e-6:
                finetuning.fail(f"{name}: step {step}: accuracy {ours}, TRL's rewards/accuracies {theirs} of {len(pairs)} pairs")
        # Of a tuned model evaluate sees the base as it is stored, not in 4 bits.
        theirs = compare_evaluation(name, trainer, held_out, said["evaluations"][-1], None if method == "qlora" else said["evaluated"])
        print(f"{name}: loss curves: {curve}; accuracies {np.mean(accuracies[:10]):.2f} to {np.mean(accuracies[-10:]):.2f}; held out: loss {theirs[0]:.4f}, accuracy {theirs[1]:.3f}, "
              f"margin {theirs[3]:.4f} of {theirs[2]} pairs", flush=True)


def main():
    if finetuning.is_missing("preferences", ["torch", "transformers", "peft", "tokenizers", "trl", "rich"]):
        print("[  PASSED  ] 0 tests.")
        return
    with tempfile.TemporaryDirectory() as folder:
        check(sys.argv[1], folder)
    print("[  PASSED  ] 1 tests.")


main()
