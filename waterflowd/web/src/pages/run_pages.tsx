// The pages of one run. They are read when the first of them is opened, so that the lists need less.

export { LogPage } from "./log";
export { RunPage } from "./run";
