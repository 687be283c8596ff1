"""One small file of every format. `@` stands where a latency does, so that tests can put anything there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """A file name, its text, and of the latency at `@`: the literal, the milliseconds that it means, its row."""

    file: str
    template: str
    literal: str
    latency_ms: float
    row: int | str
    num_measurements: int
    states_device: bool = False

    @property
    def text(self) -> str:
        return self.with_latency(self.literal)

    def with_latency(self, literal: str) -> str:
        return self.template.replace("@", literal)

    def write(self, folder: Path, text: str | None = None) -> Path:
        path = folder / self.file
        path.write_bytes((self.text if text is None else text).encode())
        return path


CSV = """subject,latency_us,device,runtime,precision,threads
E1/RA,@,Phone,onnxruntime-cpu,fp32,1
E1/R,8250,Phone,onnxruntime-cpu,fp32,1
"E2/RA",9100.5,Phone,onnxruntime-cpu,fp32,1
"""

PERF_TEST = """unet,@,104857600,97,0

Min Latency: 0.0125 s
P50 Latency is 0.0125 sec
small_unet,0.0061,52428800,98,0
small_unet,0.0059,52428800,98,1
small_unet,6e-03,52428800,98,2
"""

AIHUB_PERF = """supported_devices:
- Samsung Galaxy S25
precisions:
  w8a16:
    components:
      unet:
        device_assets:
          Samsung Galaxy S25:
            qnn_context_binary:
              model_id: m0
        performance_metrics:
          Samsung Galaxy S25:
            qnn_context_binary:
              job_id: j1
              job_status: Passed
              inference_time_milliseconds: @
              estimated_peak_memory_range_mb:
                min: 0
                max: 18
              primary_compute_unit: NPU
              layer_counts:
                total: 438
                npu: 438
              tool_versions:
                qairt: 2.41.0.251128145156_191518
            precompiled_qnn_onnx:
              job_id: j2
              job_status: Passed
              inference_time_milliseconds: 102.75
              estimated_peak_memory_range_mb:
                min: 1
                max: 3
              primary_compute_unit: NPU
              layer_counts:
                total: 450
                npu: 450
              tool_versions:
                qairt: 2.37.1.250807093845_124904
                onnx_runtime: 1.23.0
      vae:
        performance_metrics:
          SA7255P ADP:
            qnn_context_binary:
              job_id: j3
              job_status: Passed
              inference_time_milliseconds: 250
"""

AIHUB_JOB = """{
 "execution_summary": {
  "estimated_inference_time": @,
  "estimated_inference_peak_memory": 32792576,
  "first_load_time": 2495537,
  "first_load_peak_memory": 358952960,
  "compile_memory_peak_range": -1,
  "all_inference_times": [1995, 12500, 321, 281]
 },
 "execution_detail": [
  {"name": "Input", "type": "Input", "compute_unit": "NPU", "execution_time": 0, "execution_cycles": 0},
  {"name": "/down/Conv", "type": "Conv", "compute_unit": "NPU", "execution_time": 211, "execution_cycles": 900000},
  {"name": "/up/Conv", "type": "Conv", "compute_unit": "NPU"}
 ]
}
"""

ORT_PROFILE = """[
{"cat" : "Session","pid" :1,"tid" :1,"dur" :535,"ts" :5,"ph" : "X","name" :"model_loading_uri","args" : {}},
{"cat" : "Node","pid" :1,"tid" :1,"dur" :90000,"ts" :1100,"ph" : "X","name" :"conv_kernel_time","args" : \
{"op_name" : "Conv","provider" : "CPUExecutionProvider","input_type_shape" : [{"float":[1,3,64,64]}]}},
{"cat" : "Session","pid" :1,"tid" :1,"dur" :99000,"ts" :1000,"ph" : "X","name" :"model_run","args" : {}},
{"cat" : "Node","pid" :1,"tid" :1,"dur" :7000,"ts" :200100,"ph" : "X","name" :"conv_kernel_time","args" : \
{"op_name" : "Conv","provider" : "CPUExecutionProvider","input_type_shape" : [{"float":[1,3,64,64]}]}},
{"cat" : "Session","pid" :1,"tid" :1,"dur" :@,"ts" :200000,"ph" : "X","name" :"model_run","args" : {}}
]
"""

_TABLE_HEAD = "\t".join(
    ["", "[node type]", "[start]", "[first]", "[avg ms]", "[%]", "[cdf%]", "[mem KB]", "[times called]", "[Name]"]
)
TFLITE = f"""INFO: STARTING!
INFO: Num threads: [4]
INFO: Graph: [/data/local/tmp/unet.tflite]
INFO: #threads used for CPU inference: [4]
INFO: Loaded model /data/local/tmp/unet.tflite
INFO: Initialized session in 5.579ms.
INFO: count=1 curr=1357602 p5=1357602 median=1357602 p95=1357602

INFO: count=50 first=12499 curr=12401 min=12385 max=125256 avg=@ std=25 p5=12387 median=@ p95=12474

INFO: Inference timings in us: Init: 5579, First inference: 1357602, Warmup (avg): 1.3576e+06, Inference (avg): @
INFO: Memory footprint delta from the start of the tool (MB): init=6.5 overall=109.75
Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
{_TABLE_HEAD}
\t                 CONV_2D\t  0.066\t 87.754\t 9.957\t 81.1%\t 81.1%\t 0.000\t 1\t[conv]:0
\t                 SOFTMAX\t  9.011\t  0.230\t 2.443\t 18.9%\t100.0%\t 0.000\t 1\t[softmax]:1

============================== Top by Computation Time ==============================
{_TABLE_HEAD}
\t                 CONV_2D\t  0.066\t 87.754\t 9.957\t 81.1%\t 81.1%\t 0.000\t 1\t[conv]:0

Number of nodes executed: 2
Timings (microseconds): count=50 first=12660 curr=12978 min=12203 max=12476 avg=12499 std=10
"""

SAMPLES = {
    "csv": Sample("blocks.csv", CSV, "12500", 12.5, 2, 3, states_device=True),
    "onnxruntime-perf-test": Sample("result.txt", PERF_TEST, "0.0125", 12.5, 1, 2),
    "aihub-perf": Sample("perf.yaml", AIHUB_PERF, "12.5", 12.5, 16, 3, states_device=True),
    "aihub-job": Sample("job.json", AIHUB_JOB, "12500", 12.5, "$.execution_summary.estimated_inference_time", 1),
    "onnxruntime-profile": Sample("profile.json", ORT_PROFILE, "12500", 12.5, "$[4]", 1),
    "tflite-benchmark": Sample("log.txt", TFLITE, "12500", 12.5, 11, 1),
}
