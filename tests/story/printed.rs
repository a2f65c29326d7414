//! A report as a terminal shows it.

use crate::{
    made::make,
    program::{User, conversation},
};

#[test]
fn a_report_says_what_was_done_what_it_cost_and_what_others_take() {
    let user = User::new();
    let folder = make(&user, 3);
    let output = user.done(&["report", &folder.to_string_lossy()]);
    insta::assert_snapshot!(conversation(&output), @r#"
    exit: Some(0)
    --- stdout
    run nov24-made: complete, Llama-3.1-8B-Instruct, echo engine, begun 2026-11-24 08:00 UTC
    prompts   3,999,963 of 4,000,000 done, 37 failed
    tokens    4,047,962,556 in, 747,993,081 out
    time      1 d 14 h in 2 sessions; 1 d 9 h predicted
    paid      $54.86, $0.0115 for a million tokens; $48.20 predicted, $70.00 budget, $70.00 at most
              $0.60 of it while machines did not answer prompts
    answers   half within 3.6 s, 90 % within 10 s, 99 % within 14 s, waiting on the machine included

    machines
    machine  from    what                                               price         kept      working  prompts  tokens/s    paid  given up since
          0  vast    1 × RTX 4090, 16 cores, 62.9 GiB, Sweden       $0.3100/h   9 h 11 min    9 h 5 min  318,238     11.7k   $2.86  the marketplace has taken the instance back: it was outbid
          1  runpod  1 × RTX 4090, 24 cores, 125.7 GiB, Oregon, US  $0.3400/h   14 h 5 min  13 h 37 min  506,575     12.4k   $4.80
          2  verda   1 × L40S, 12 cores, 96.0 GiB, Finland          $0.7900/h   14 h 5 min  13 h 52 min  649,669     15.6k  $11.14
          0  vast    1 × RTX 4090, 16 cores, 62.9 GiB, Sweden       $0.3100/h   4 h 53 min   4 h 40 min  154,883     11.0k   $1.52
          0  vast    1 × RTX 4090, 16 cores, 62.9 GiB, Sweden       $0.3100/h  23 h 59 min  23 h 53 min  686,558      9.6k   $7.44
          1  runpod  1 × RTX 4090, 24 cores, 125.7 GiB, Oregon, US  $0.3400/h  23 h 59 min  23 h 53 min  742,749     10.4k   $8.16
          2  verda   1 × L40S, 12 cores, 96.0 GiB, Finland          $0.7900/h  23 h 59 min  23 h 53 min  941,291     13.1k  $18.96

    failures
    prompts  fault     why
         24  too long  the prompt has … tokens, and … fit
         11  bad line  it is no JSON: a value is missing, column …
          2  engine    the server died of it <twice> & for good

    the same tokens elsewhere
        cost  service    model                                it is        price of
      $88.71  DeepInfra  Llama 3.1 8B Turbo in batch mode     the same     2026-11-05
     $118.36  Novita     an 8B model                          of its size  2026-11-05
     $122.99  DeepInfra  Mistral 7B v0.3 in batch mode        of its size  2026-11-05
     $479.60  Fireworks  any model of 4 to 16B in batch mode  of its size  2026-09-25
     $813.95  Alibaba    Qwen3 8B                             of its size  2026-10-07
     $250.80  OpenAI     GPT-5 nano in batch mode             closed       2026-09-30
     $528.00  OpenAI     GPT-4o mini in batch mode            closed       2026-09-30
     $872.30  OpenAI     GPT-5.4 nano in batch mode           closed       2026-09-30
    $1067.00  Google     Gemini 3.1 Flash-Lite in batch mode  closed       2026-06-30
    $1253.99  OpenAI     GPT-5 mini in batch mode             closed       2026-09-30
    --- stderr
    "#);
}
