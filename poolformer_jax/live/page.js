"use strict";
// Asks the server for a clip and plays, draws and keeps it while it comes in.

const $ = (id) => document.getElementById(id);
const LEAD = 0.15; // Seconds of sound that are there before it begins to play.
const FRAME = 512, HOP = 128; // Samples of a column of the spectrogram, and from one to the next.

let about, request, audio, prompt, recorder;

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

async function start() {
  about = await (await fetch("about")).json();
  $("model").textContent = about.model;
  const classes = [...Array(about.classes).keys()].map((k) => [k, about.names[k] ?? `${k}`]);
  const offered = about.any ? [["", "any"], ...classes] : classes;
  $("label").replaceChildren(...offered.map(([value, name]) => new Option(name, value)));
  $("label-box").hidden = !about.classes;
  $("guidance-box").hidden = !about.guidance;
  for (const id of ["seconds", "temperature", "guidance"]) {
    const show = () => { $(`${id}-value`).textContent = Number($(id).value).toFixed(1); };
    $(id).addEventListener("input", show);
    show();
  }
  $("speak").disabled = false;
  say("Ready");
}

function query() {
  const fields = { seconds: $("seconds").value, temperature: $("temperature").value };
  fields.seed = Math.floor(Math.random() * 2 ** 32);
  if (about.classes && $("label").value !== "") {
    fields.label = $("label").value;
    if (about.guidance) fields.guidance = $("guidance").value;
  }
  return new URLSearchParams(fields);
}

async function speak() {
  const clip = new Clip(Number($("seconds").value));
  request = new AbortController();
  $("speak").disabled = true;
  $("stop").disabled = false;
  say("Waiting for the first sound");
  try {
    audio ??= new AudioContext({ sampleRate: about.sample_rate });
    await audio.resume();
    const body = prompt ?? new Blob();
    const options = { method: "POST", body, signal: request.signal };
    const answer = await fetch(`speak?${query()}`, options);
    if (!answer.ok) throw new Error((await answer.json()).error);
    await readClip(answer.body.getReader(), clip);
    clip.end();
  } catch (error) {
    if (error.name === "AbortError") {
      clip.stop();
      say("Stopped");
    } else say(error.message, true);
  }
  $("speak").disabled = false;
  $("stop").disabled = true;
}

// Lines of JSON, of which some are followed by samples; see the server.
async function readClip(reader, clip) {
  let bytes = new Uint8Array(0), wanted = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const joined = new Uint8Array(bytes.length + value.length);
    joined.set(bytes);
    joined.set(value, bytes.length);
    bytes = joined;
    for (;;) {
      if (wanted) {
        if (bytes.length < wanted) break;
        clip.add(new Int16Array(bytes.slice(0, wanted).buffer));
        bytes = bytes.slice(wanted);
        wanted = 0;
      }
      const end = bytes.indexOf(10);
      if (end < 0) break;
      const line = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
      bytes = bytes.slice(end + 1);
      if (line.error) throw new Error(line.error);
      if (line.waiting) say(`Waiting: ${line.waiting} before you`);
      if (line.samples) wanted = 2 * line.samples;
    }
  }
}

class Clip {
  constructor(wanted) {
    this.wanted = wanted; // Seconds.
    this.asked = performance.now();
    this.parts = [];
    this.length = 0;
    this.pending = [];
    this.sources = [];
    this.gaps = 0;
    this.pictures = new Pictures();
    $("again").hidden = $("save").hidden = true;
  }

  add(pcm) {
    this.first ??= performance.now();
    const samples = Float32Array.from(pcm, (x) => x / 32768);
    this.parts.push(pcm);
    this.length += pcm.length;
    this.pictures.add(samples);
    this.pending.push(samples);
    if (this.next !== undefined || this.isReady()) this.play();
    this.tell("");
  }

  // Whether it can begin to play, and never wait for more.
  isReady() {
    const seconds = this.length / about.sample_rate;
    const speed = seconds / ((performance.now() - this.asked) / 1000);
    return seconds >= LEAD + Math.max(0, 1 - speed) * this.wanted;
  }

  tell(end) {
    const seconds = this.length / about.sample_rate;
    const took = (performance.now() - this.first) / 1000;
    const speed = took > 0.2 ? `, ${(seconds / took).toFixed(1)} x real time` : "";
    const gaps = this.gaps ? `, ${this.gaps} gaps` : "";
    const first = ((this.first - this.asked) / 1000).toFixed(2);
    say(`${end}${seconds.toFixed(2)} s, first sound after ${first} s${speed}${gaps}`);
  }

  play() {
    for (const samples of this.pending.splice(0)) {
      const buffer = audio.createBuffer(1, samples.length, about.sample_rate);
      buffer.copyToChannel(samples, 0);
      const source = new AudioBufferSourceNode(audio, { buffer });
      source.connect(audio.destination);
      const now = audio.currentTime;
      if (this.next !== undefined && this.next < now) this.gaps += 1;
      const at = Math.max(this.next ?? 0, now + 0.01);
      source.start(at);
      this.next = at + buffer.duration;
      this.sources.push(source);
    }
  }

  stop() {
    for (const source of this.sources) source.stop();
  }

  end() {
    this.play();
    this.tell("Done: ");
    URL.revokeObjectURL($("again").src);
    const url = URL.createObjectURL(wav(this.parts, about.sample_rate));
    $("again").src = $("save").href = url;
    $("save").download = "poolformer.wav";
    $("again").hidden = $("save").hidden = false;
  }
}

// Waveform and spectrogram, which grow to the right and are squeezed when they are full.
class Pictures {
  constructor() {
    this.samples = new Float32Array(about.sample_rate);
    this.length = 0;
    this.columns = [];
    this.draw();
  }

  add(samples) {
    while (this.length + samples.length > this.samples.length) {
      const longer = new Float32Array(2 * this.samples.length);
      longer.set(this.samples);
      this.samples = longer;
    }
    this.samples.set(samples, this.length);
    this.length += samples.length;
    while ((this.columns.length * HOP) + FRAME <= this.length) {
      const first = this.columns.length * HOP;
      this.columns.push(decibels(this.samples.subarray(first, first + FRAME)));
    }
    this.scheduled ??= requestAnimationFrame(() => { this.scheduled = undefined; this.draw(); });
  }

  draw() {
    const wave = canvas("wave"), scale = this.samples.length / wave.width;
    const ink = getComputedStyle(document.body).getPropertyValue("--accent");
    wave.context.fillStyle = ink;
    for (let x = 0; x < wave.width && x * scale < this.length; x += 1) {
      let low = 0, high = 0;
      for (let i = Math.floor(x * scale); i < Math.min((x + 1) * scale, this.length); i += 1) {
        low = Math.min(low, this.samples[i]);
        high = Math.max(high, this.samples[i]);
      }
      const top = (1 - high) * wave.height / 2;
      wave.context.fillRect(x, top, 1, Math.max(1, (high - low) * wave.height / 2));
    }
    const image = canvas("spectrogram"), bins = FRAME / 2;
    const loudest = this.columns.reduce((most, c) => Math.max(most, ...c), -60);
    const pixels = image.context.createImageData(image.width, image.height);
    const all = (this.samples.length - FRAME) / HOP + 1;
    for (let x = 0; x < image.width; x += 1) {
      const column = this.columns[Math.floor(x * all / image.width)];
      if (!column) break;
      for (let y = 0; y < image.height; y += 1) {
        const level = column[Math.floor((1 - (y + 1) / image.height) * bins)];
        const light = Math.max(0, 1 + (level - loudest) / 70);
        const color = [255 * light ** 0.8, 255 * light ** 2, 160 * light ** 0.5 * (1 - light / 2), 255];
        pixels.data.set(color, 4 * (y * image.width + x));
      }
    }
    image.context.putImageData(pixels, 0, 0);
  }
}

function canvas(id) {
  const element = $(id), density = window.devicePixelRatio;
  element.width = element.clientWidth * density;
  element.height = element.clientHeight * density;
  const { width, height } = element;
  return { context: element.getContext("2d"), width, height };
}

// Levels of the frequencies of a frame: a Hann window and the fast Fourier transform.
function decibels(frame) {
  const n = frame.length, re = new Float64Array(n), im = new Float64Array(n);
  for (let i = 0, j = 0; i < n; i += 1) {
    re[j] = frame[i] * (0.5 - 0.5 * Math.cos(2 * Math.PI * i / n));
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
  }
  for (let size = 2; size <= n; size *= 2) {
    for (let first = 0; first < n; first += size) {
      for (let k = 0; k < size / 2; k += 1) {
        const angle = -2 * Math.PI * k / size, c = Math.cos(angle), s = Math.sin(angle);
        const a = first + k, b = a + size / 2;
        const x = re[b] * c - im[b] * s, y = re[b] * s + im[b] * c;
        re[b] = re[a] - x; im[b] = im[a] - y;
        re[a] += x; im[a] += y;
      }
    }
  }
  return Float32Array.from({ length: n / 2 }, (_, k) => 10 * Math.log10(re[k] ** 2 + im[k] ** 2 + 1e-9));
}

function wav(parts, rate) {
  const bytes = 2 * parts.reduce((sum, part) => sum + part.length, 0);
  const header = new DataView(new ArrayBuffer(44));
  const text = (at, letters) => [...letters].forEach((c, i) => header.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF"); header.setUint32(4, 36 + bytes, true); text(8, "WAVEfmt ");
  header.setUint32(16, 16, true); header.setUint16(20, 1, true); header.setUint16(22, 1, true);
  header.setUint32(24, rate, true); header.setUint32(28, 2 * rate, true);
  header.setUint16(32, 2, true); header.setUint16(34, 16, true);
  text(36, "data"); header.setUint32(40, bytes, true);
  return new Blob([header, ...parts], { type: "audio/wav" });
}

// Any recording that the browser can read, as one channel at the model's rate.
async function usePrompt(file, name) {
  try {
    if (file.size > about.max_bytes) {
      throw new Error(`${name} has ${(file.size / 1e6).toFixed(1)} MB; give at most ` +
        `${about.max_bytes / 1e6} MB`);
    }
    const context = new OfflineAudioContext(1, 1, about.sample_rate);
    const sound = await context.decodeAudioData(await file.arrayBuffer()).catch(() => {
      throw new Error(`${name} is no recording that this browser can read; give a WAV file`);
    });
    const mixed = Float32Array.from(sound.getChannelData(0));
    for (let k = 1; k < sound.numberOfChannels; k += 1) {
      sound.getChannelData(k).forEach((x, i) => { mixed[i] += x; });
    }
    const pcm = Int16Array.from(mixed, (x) =>
      Math.max(-32768, Math.min(32767, Math.round(32768 * x / sound.numberOfChannels))));
    prompt = wav([pcm], about.sample_rate);
    $("prompt").textContent = `${name}, ${sound.duration.toFixed(2)} s`;
    $("clear").hidden = false;
    say("Ready");
  } catch (error) {
    clearPrompt();
    say(error.message, true);
  }
}

function clearPrompt() {
  prompt = undefined;
  $("file").value = $("prompt").textContent = "";
  $("clear").hidden = true;
}

async function record() {
  if (recorder) {
    recorder.stop();
    return;
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const parts = [];
    recorder = new MediaRecorder(stream);
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.onstop = () => {
      stream.getTracks().forEach((track) => track.stop());
      recorder = undefined;
      $("record").textContent = "Record";
      usePrompt(new Blob(parts), "Recording");
    };
    recorder.start();
    $("record").textContent = "Stop recording";
  } catch (error) {
    say(`No microphone: ${error.message}`, true);
  }
}

$("form").addEventListener("submit", (event) => event.preventDefault());
$("speak").addEventListener("click", speak);
$("stop").addEventListener("click", () => request?.abort());
$("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) usePrompt(file, file.name);
});
$("record").addEventListener("click", record);
$("clear").addEventListener("click", clearPrompt);
start().catch((error) => say(`The server does not answer: ${error.message}`, true));
