mod damage;
mod hostile;
mod reading;
mod sealing;
