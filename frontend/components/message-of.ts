import { ApiError } from "@/lib/api-error";

/** What to tell a person about something that went wrong. */
export function messageOf(error: unknown): string {
  return error instanceof ApiError ? error.message : "Something went wrong. Try again.";
}
