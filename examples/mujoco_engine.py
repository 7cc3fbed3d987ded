"""Sim-to-sim: an exported policy in MuJoCo's own C engine, without JAX.

rpo export runs/NAME --output policy.onnx
python examples/mujoco_engine.py policy.onnx rpo/envs/assets/ant.xml
"""

import json
import sys

import mujoco
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
facts = session.get_modelmeta().custom_metadata_map
settings = json.loads(facts["task_settings"])
strength = [float(unit.split()[0]) for unit in json.loads(facts["action_units"])]  # N m
model = mujoco.MjModel.from_xml_path(sys.argv[2])
model.opt.timestep = float(facts["control_period_seconds"]) / settings["substeps"]
model.dof_damping[6:] += settings["limit_damping"]  # which the task's joints always have
data = mujoco.MjData(model)
data.qpos[2], data.qpos[7:] = settings["start_height"], settings["start_joints"]
mujoco.mj_forward(model, data)
steps = 0
while steps < settings["episode_length"] and data.qpos[2] >= settings["termination_height"]:
    (w, x, y, z), h, frame = data.qpos[3:7], 0.5**0.5, data.xmat[1].reshape(3, 3)
    quaternion = [h * (x - w), h * (y + z), h * (z - y), h * (w + x)]  # in a y-up world, as below
    linear, angular = (v[[0, 2, 1]] * [1, 1, -1] for v in (data.qvel[:3], frame @ data.qvel[3:6]))
    joints = [*data.qpos[7:], *(settings["joint_velocity_scale"] * data.qvel[6:])]
    posture = [frame[2, 2], frame[0, 0], *np.zeros(len(strength))]  # up, heading, no last action
    observation = [data.qpos[2], *quaternion, *linear, *angular, *joints, *posture]
    (action,) = session.run(["action"], {"observation": np.array([observation], np.float32)})
    data.qfrc_applied[6:] = strength * action[0]
    mujoco.mj_step(model, data, settings["substeps"])
    steps += 1
print(f"{steps} of {settings['episode_length']} steps, {data.qpos[0]:.1f} m forward")
